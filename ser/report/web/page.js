// The table of clips: DataTables shows what the filter lets through; the address keeps the filter.
const find = (id) => document.getElementById(id);
const script = URL.createObjectURL(
  new Blob([JSON.parse(find("datatables").textContent)], { type: "text/javascript" }));
const { default: DataTable } = await import(script);

const data = JSON.parse(find("data").textContent);
const { emotions, models } = data;
const rows = data.clips.clip.map((_, number) => {
  const row = { number };
  for (const name in data.clips) row[name] = data.clips[name][number];
  row.answers = models.map((model) => {
    const predicted = emotions[model.predicted[number]];
    return {
      predicted,
      percent: model.permille[number].map((value) => value / 10),
      confidence: Math.max(...model.permille[number]) / 10,
      verdict: predicted === row.emotion ? "right" : "wrong",
    };
  });
  row.disagree = row.answers.some((answer) => answer.predicted !== row.answers[0].predicted);
  return row;
});

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Long texts of the page, a line for each clip, taken apart when the first line is needed.
const texts = {};
const line = (id, number) => (texts[id] ??= find(id).textContent.split("\n"))[number];
const withAudio = Boolean(find("sounds"));

function sound(number) {
  const bytes = Uint8Array.from(atob(line("sounds", number)), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "audio/webm" }));
}

function listen(row) {
  const audio = make("audio", { controls: "", preload: "metadata", "aria-label": row.clip });
  audio.src = sound(row.number);
  const sight = make("div", { class: "sight" });
  const loudest = Math.max(...row.loudness);
  sight.append(make("img", {
    src: `data:image/webp;base64,${line("pictures", row.number)}`,
    alt: `Spectrogram; loudest ${loudest} dB relative to full scale`,
  }));
  const steps = row.loudness.length;
  const points = row.loudness.map((level, step) => `${step + 0.5},${-level}`).join(" ");
  sight.insertAdjacentHTML("beforeend",
    `<svg viewBox="0 0 ${steps} ${-data.quietest}" preserveAspectRatio="none" aria-hidden="true">` +
    `<polyline points="${points}"/></svg><i></i>`);
  const follow = () => {
    sight.style.setProperty("--at", audio.currentTime / audio.duration || 0);
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    follow();
  });
  audio.addEventListener("seeked", follow);
  sight.addEventListener("click", (event) => {
    audio.currentTime = (event.offsetX / sight.clientWidth) * audio.duration;
    audio.play();
  });
  return make("div", { class: "listen" }, sight, audio);
}

function opinion(row, answer) {
  const spoken = emotions.map((emotion, index) => `${emotion} ${answer.percent[index]} %`);
  const bars = make("div", { class: "bars", role: "img", "aria-label": spoken.join(", ") });
  emotions.forEach((emotion, index) => {
    const share = answer.percent[index];
    const chosen = emotion === answer.predicted ? "chosen" : "";
    bars.append(make(emotion === row.emotion ? "u" : "s", {}, emotion),
      make("i", { class: chosen, style: `--p: ${share}` }), make("b", {}, share.toFixed(0)));
  });
  const mark = answer.verdict === "right" ? "✓" : "✗";
  const text = `${mark} ${answer.predicted} ${answer.confidence.toFixed(0)} %`;
  return make("div", { class: answer.verdict }, make("strong", { "aria-label":
    `${answer.verdict}: ${answer.predicted}, ${answer.confidence} %` , role: "text" }, text), bars);
}

// DataTables takes titles and cells for HTML.
const { escapeHtml } = DataTable.util;
const plain = (name, title = name) => ({ data: name, title, label: title, className: "fact" });
const columns = [
  { data: "clip", title: "clip", build: (row) => make("div", {}, make("code", {}, row.clip),
    make("small", {}, `fold ${row.fold}, take ${row.repetition}`),
    make("small", {}, `“${data.statements[row.statement - 1]}”`)) },
  { ...plain("actor"), className: "dt-left fact" },
  plain("gender"),
  { ...plain("emotion", "acted"), data: (row, type) =>
    type === "sort" ? emotions.indexOf(row.emotion) : row.emotion },
  plain("intensity"),
  ...(withAudio ? [{ data: null, title: "listen", orderable: false, searchable: false,
    defaultContent: "", build: listen }] : []),
  ...models.map((model, index) => ({ title: escapeHtml(model.title), searchable: false, label: model.title,
    data: (row) => row.answers[index].confidence, type: "num", className: "dt-left",
    build: (row) => opinion(row, row.answers[index]) })),
];
for (const column of columns) {
  column.createdCell = (cell, _, row) => {
    if (column.label) cell.dataset.label = column.label;
    if (column.build) cell.replaceChildren(column.build(row));
  };
}
const first = columns.length - models.length; // the first model's column
const table = new DataTable("#table", {
  data: rows, columns, columnDefs: [{ targets: "_all", render: DataTable.render.text() }],
  autoWidth: false, pageLength: 20, lengthMenu: [10, 20, 50, 100],
  order: [[0, "asc"]],
  layout: { topStart: null, topEnd: null, bottomStart: ["info", "pageLength"], bottomEnd: "paging" },
  language: { info: "_START_ to _END_ of _TOTAL_", infoFiltered: "", lengthMenu: "_MENU_ a page",
    emptyTable: "no clip", zeroRecords: "no clip", infoEmpty: "none" },
});

// The filter's conditions on a clip and on the chosen model's answer.
const form = find("filter");
const tests = {
  predicted: (row, answer, value) => answer.predicted === value,
  verdict: (row, answer, value) => answer.verdict === value,
  from: (row, answer, value) => answer.confidence >= Number(value),
  to: (row, answer, value) => answer.confidence <= Number(value),
  emotion: (row, answer, value) => row.emotion === value,
  actor: (row, answer, value) => row.actor === Number(value),
  gender: (row, answer, value) => row.gender === value,
  intensity: (row, answer, value) => row.intensity === value,
  disagree: (row) => row.disagree,
};
const orders = {
  "": () => [0, "asc"], actor: () => [1, "asc"], emotion: () => [3, "asc"],
  sure: (index) => [first + index, "desc"], unsure: (index) => [first + index, "asc"],
};
const chosen = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value));

let order = "";
function show() {
  const filter = chosen();
  const index = models.findIndex((model) => model.name === filter.model);
  const asked = Object.entries(filter).filter(([name]) => name in tests);
  table.search.fixed("filter", (_, row) =>
    asked.every(([name, value]) => tests[name](row, row.answers[index], value)));
  table.search(filter.search ?? "");
  const next = `${filter.order ?? ""} ${index}`;
  if (next !== order) table.order([orders[filter.order ?? ""](index)]);
  order = next;
  table.draw();
  const shown = table.rows({ search: "applied" }).data().toArray();
  const right = shown.filter((row) => row.answers[index].verdict === "right").length;
  const share = shown.length ? ` (${(100 * right / shown.length).toFixed(1)} %)` : "";
  find("count").textContent = `${shown.length} of ${rows.length} clips; ` +
    `${models[index].title} has ${right} of them right${share}.`;
}

// The address names what differs from the form's first state.
function remember() {
  const filter = chosen();
  if (filter.model === models[0].name) delete filter.model;
  const hash = new URLSearchParams(filter).toString();
  history.replaceState(null, "", hash ? `#${hash}` : `${location.pathname}${location.search}`);
}

function recall() {
  if (location.hash.length > 1 && !location.hash.includes("=")) return; // leads to a section
  form.reset();
  const filter = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of filter) {
    const control = form.elements[name];
    if (control?.type === "checkbox") control.checked = true;
    else if (control) control.value = value;
  }
  if (!form.elements.model.value) form.elements.model.selectedIndex = 0;
  show();
  if (filter.size) {
    find("clips").scrollIntoView();
    find("clips").focus({ preventScroll: true });
  }
}

form.addEventListener("input", () => { show(); remember(); });
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => { show(); remember(); }));
addEventListener("hashchange", recall);
recall();
if (!find("count").textContent) show();

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", theme);
theme();

// A mark of a chart says what it shows to a pointer as to a screen reader.
for (const mark of document.querySelectorAll(".chart [role='graphics-symbol'][aria-label]")) {
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = mark.getAttribute("aria-label");
  mark.append(title);
}
