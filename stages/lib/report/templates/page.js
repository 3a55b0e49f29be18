// Sorting and tooltips. Without this script the page shows the same numbers and pictures.
"use strict";

function readCell(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

// Numbers by value, other text as people do ("conv10" after "conv2"), empty cells last in both directions.
function compareCells(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (typeof one === "number" && typeof other === "number") return sign * (one - other);
  return sign * String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortTable(table, column) {
  const heads = table.tHead.rows[0].cells;
  const rows = [...table.tBodies[0].rows];
  const before = heads[column].ariaSort;
  const isNumber = heads[column].classList.contains("number");
  const first = isNumber ? "descending" : "ascending"; // of numbers, people look for the greatest
  const second = isNumber ? "ascending" : "descending";
  const now = before === first ? second : first;
  for (const head of heads) head.ariaSort = "none";
  heads[column].ariaSort = now;
  const sign = now === "ascending" ? 1 : -1;
  rows.sort((a, b) => compareCells(readCell(a, column), readCell(b, column), sign));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.ariaSort = "none";
    button.addEventListener("click", () => sortTable(table, column));
  });
}

// Tooltips for pointers, fingers and keys: a chart says on each mark what it stands for.
const MARKS = '[role="graphics-symbol"]:not(g, [aria-roledescription="line mark"])';
const tip = document.createElement("div");
tip.className = "tip";
tip.role = "status";
tip.hidden = true;
document.body.append(tip);
let shown = null;

function showMark(mark) {
  shown?.classList.remove("shown");
  shown = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("shown");
  const parts = mark.getAttribute("aria-label").split("; ").filter((part) => !/: (null|undefined)?$/.test(part));
  tip.textContent = parts.join("\n");
  const box = mark.getBoundingClientRect();
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  const widest = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const top = box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 8 : box.bottom + 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(left, widest))}px`;
  tip.style.top = `${scrollY + top}px`;
}

document.addEventListener("pointerover", (event) => {
  showMark(event.target instanceof Element ? event.target.closest(`.chart ${MARKS}`) : null);
});

for (const chart of document.querySelectorAll(".chart")) {
  const marks = [...chart.querySelectorAll(MARKS)];
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  chart.tabIndex = 0;
  chart.addEventListener("focus", () => chart.matches(":focus-visible") && showMark(marks[0]));
  chart.addEventListener("blur", () => showMark(null));
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") showMark(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const mark = marks.at((marks.indexOf(shown) + steps[event.key]) % marks.length);
    mark.scrollIntoView({ block: "nearest", inline: "nearest" });
    showMark(mark);
  });
}

// Paper shows everything.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
