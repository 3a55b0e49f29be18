const find = (id) => document.getElementById(id);
const [drop, file, canvas, brush, error] = ["drop", "file", "canvas", "brush", "error"].map(find);
const pen = canvas.getContext("2d");
let asked = 0; // number of the last question: only its answer is shown

async function ask(picture) { // a file, or the promise of one
  const number = ++asked;
  let answer;
  try {
    answer = await send(await picture);
  } catch {
    answer = { error: "The program on this machine does not answer; start it again." };
  }
  if (number === asked) show(answer);
}

async function send(content) {
  const maxBytes = Number(document.body.dataset.maxBytes);
  if (content.size > maxBytes) return { error: `Expected a file of at most ${maxBytes / 1e6} MB; make it smaller.` };
  const response = await fetch("/predictions", {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: content,
  });
  return response.json();
}

function show(answer) {
  error.textContent = answer.error ?? "";
  find("empty").hidden = true;
  find("found").hidden = Boolean(answer.error);
  if (answer.error) return;
  find("unsure").hidden = answer.is_sure !== false;
  find("classes").replaceChildren(...answer.predictions.map(buildRow));
  find("seen").src = answer.seen;
  find("seen").alt = "The picture that the network saw";
  find("time").textContent = answer.milliseconds.toFixed(2);
}

function buildRow({ class: name, probability }) {
  const percent = (100 * probability).toFixed(1);
  const row = document.createElement("li");
  for (const [tag, text] of [["span", name], ["span", `${percent} %`], ["div", ""]]) {
    row.append(Object.assign(document.createElement(tag), { textContent: text }));
  }
  const bar = row.lastElementChild;
  bar.className = "bar";
  bar.append(document.createElement("div"));
  bar.firstElementChild.style.width = `${percent}%`;
  return row;
}

// A photo

file.addEventListener("change", () => {
  if (file.files.length) ask(file.files[0]);
  file.value = ""; // so that the same file can be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
for (const end of ["dragleave", "drop"]) document.addEventListener(end, () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const dropped = event.dataTransfer.files[0];
  if (dropped) ask(dropped);
  else show({ error: "Expected a file; save the picture first, and drop that." });
});

// A drawing

const background = Number(document.body.dataset.background); // so that a drawing is light or dark as the data are

function clear() {
  pen.fillStyle = `rgb(${background} ${background} ${background})`;
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function drawTo(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  pen.lineTo(x, y);
  pen.lineTo(x + 0.01, y); // a line without length would not be drawn, and a touch is a dot
  pen.stroke();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  Object.assign(pen, { lineWidth: brush.valueAsNumber, lineCap: "round", lineJoin: "round", strokeStyle: background < 128 ? "#ffffff" : "#202020" });
  pen.beginPath();
  drawTo(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (canvas.hasPointerCapture(event.pointerId)) drawTo(event);
});
// After each stroke, be it ended or broken off: the picture as it is now, numbered now.
canvas.addEventListener("lostpointercapture", () => ask(new Promise((resolve) => canvas.toBlob(resolve))));
find("clear").addEventListener("click", clear);
clear();

// An image of the test set

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => ask(fetch(button.dataset.example).then((response) => response.blob())));
}
