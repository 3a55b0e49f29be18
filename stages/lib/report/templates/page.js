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

// A quick tooltip, also for fingers, in the place of the browser's slow one.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.ariaHidden = "true"; // it repeats what the tables say
document.body.append(tip);

for (const title of document.querySelectorAll(".mark title")) {
  title.parentElement.dataset.tip = title.textContent;
  title.remove();
}

document.addEventListener("pointerover", (event) => {
  const text = event.target instanceof Element ? event.target.closest("[data-tip]")?.dataset.tip : undefined;
  tip.hidden = text === undefined;
  if (text === undefined) return;
  tip.textContent = text;
  const mark = event.target.getBoundingClientRect();
  const left = mark.left + mark.width / 2 - tip.offsetWidth / 2;
  const widest = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const top = mark.top > tip.offsetHeight + 12 ? mark.top - tip.offsetHeight - 8 : mark.bottom + 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(left, widest))}px`;
  tip.style.top = `${scrollY + top}px`;
});

// Paper shows everything.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
window.addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});
