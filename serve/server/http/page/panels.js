/* What stands beside the stage: classes and areas, where the time went, the model. */

const PARTS = [
  ["network", "network and browser"],
  ["decode", "decode"],
  ["queue", "queue"],
  ["compute", "compute"],
  ["encode", "encode"],
];
const RESIZE = { fit: " or less, aspect kept", stretch: ", stretched", none: " in training, here the image's own" };
const numbers = new Intl.NumberFormat("en");

/** The classes that a model knows, before there is an image. */
export function classList(classes) {
  return classes.map(({ name, color }) => {
    const row = make("li", "class");
    row.append(swatch(color), make("span", "label", name));
    return row;
  });
}

/** The classes of an image, the largest first; a click hides one. */
export function areaList(areas, stage) {
  return largestFirst(areas).map((area) => {
    const row = make("li");
    row.append(areaButton(area, stage));
    return row;
  });
}

/** The areas in words, for those who do not see them. */
export function spoken(areas) {
  const parts = largestFirst(areas).map(({ name, share }) => `${name} ${percent(share)}`);
  return `${areas.length} ${areas.length === 1 ? "class" : "classes"}: ${parts.join(", ")}`;
}

function largestFirst(areas) {
  return [...areas].sort((one, other) => other.pixels - one.pixels);
}

function areaButton(area, stage) {
  const button = make("button", "area");
  const tell = () => button.setAttribute("aria-pressed", String(!stage.isHidden(area.label)));
  button.type = "button";
  button.title = "Hide or show this class";
  button.append(
    swatch(area.color),
    make("span", "label", area.name),
    make("span", "percent", percent(area.share)),
    make("span", "pixels", `${numbers.format(area.pixels)} px`),
    bar(area),
  );
  button.addEventListener("click", () => {
    stage.toggle(area.label);
    tell();
  });
  tell();
  return button;
}

/** Says 0 only of nothing. */
export function percent(share) {
  return share > 0 && share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(1)}%`;
}

/** Fill the bar and the table of an answer's times, in milliseconds. */
export function showTimes({ total, parts }, { bar: track, table }) {
  const server = Object.values(parts).reduce((sum, part) => sum + part, 0);
  const times = { network: Math.max(0, total - server), ...parts };
  const known = PARTS.filter(([key]) => key in times);
  track.replaceChildren(...known.map(([key]) => {
    const part = make("i", key);
    part.style.flexGrow = times[key];
    return part;
  }));
  table.replaceChildren(...known.flatMap(([key, name]) => {
    const term = make("dt");
    term.append(make("i", `swatch ${key}`), name);
    return [term, make("dd", "", milliseconds(times[key]))];
  }));
}

export function milliseconds(time) {
  return time < 10 ? `${time.toFixed(1)} ms` : `${numbers.format(Math.round(time))} ms`;
}

export function facts(model) {
  const [height, width] = model.imgsz;
  const lines = [
    ["runs on", model.description || model.backend],
    ["chosen because", model.reason],
    ["network size", `${height} × ${width} px${RESIZE[model.resize] ?? ""}`],
    ["classes", String(model.classes.length)],
    ["version", model.version],
  ];
  return lines.filter(([, value]) => value).map(([name, value]) => {
    const fact = make("div");
    fact.append(make("dt", "", name), make("dd", "", value));
    return fact;
  });
}

function bar({ share, color }) {
  const track = make("span", "share");
  const filled = make("i");
  filled.style.width = `${100 * share}%`;
  filled.style.background = color;
  track.append(filled);
  return track;
}

function swatch(color) {
  const made = make("i", "swatch");
  made.style.background = color;
  return made;
}

function make(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}
