/* The Markdown of model cards: a small subset, made of elements and text; markup in the text stays text. */

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*([^*\s][^*]*)\*|(!?)\[([^\]]*)\]\(([^)\s]*)\)/g;
const FENCE = /^```/;
const INDENTED = /^( {4}|\t)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^\s*(?:[-*+]|\d+\.)\s+/;
const MORE_OF_ITEM = /^\s*(?:[-*+]|\d+\.)\s+|^\s+\S/;
const ROW = /^\s*\|.*\|\s*$/;
const RULE = /^[\s|:-]+$/;

export function render(markdown) {
  const lines = withoutFrontMatter(markdown.split(/\r?\n/));
  const page = document.createDocumentFragment();
  while (lines.length > 0) {
    const block = next(lines);
    if (block !== null) page.append(block);
  }
  return page;
}

function withoutFrontMatter(lines) {
  const end = lines[0] === "---" ? lines.indexOf("---", 1) : -1;
  return lines.slice(end + 1);
}

function next(lines) {
  const [first] = lines;
  if (first.trim() === "") return blank(lines);
  if (FENCE.test(first)) return fenced(lines);
  if (INDENTED.test(first)) return code(take(lines, INDENTED).map((line) => line.replace(INDENTED, "")));
  if (HEADING.test(first)) return heading(lines.shift());
  if (ROW.test(first)) return table(take(lines, ROW));
  if (ITEM.test(first)) return list(take(lines, MORE_OF_ITEM));
  return paragraph(lines);
}

function blank(lines) {
  lines.shift();
  return null;
}

/** Remove and return the lines up to the first that does not match. */
function take(lines, pattern) {
  const end = lines.findIndex((line) => !pattern.test(line));
  return lines.splice(0, end === -1 ? lines.length : end);
}

function fenced(lines) {
  lines.shift();
  const inside = [];
  while (lines.length > 0 && !FENCE.test(lines[0])) inside.push(lines.shift());
  lines.shift();
  return code(inside);
}

function code(lines) {
  const block = element("pre");
  block.append(element("code", lines.join("\n")));
  block.tabIndex = 0;
  return block;
}

/** Two levels down: the page has h1 and h2 of its own. */
function heading(line) {
  const [, marks, text] = HEADING.exec(line);
  return inline(element(`h${Math.min(6, marks.length + 2)}`), text);
}

function list(lines) {
  const block = element(/^\s*\d/.test(lines[0]) ? "ol" : "ul");
  const items = [];
  for (const line of lines) {
    if (ITEM.test(line)) items.push(line.replace(ITEM, ""));
    else items.push(`${items.pop()} ${line.trim()}`);
  }
  block.append(...items.map((text) => inline(element("li"), text)));
  return block;
}

function paragraph(lines) {
  const others = (line) => [FENCE, HEADING, ROW, ITEM].some((pattern) => pattern.test(line));
  const text = [lines.shift()];
  while (lines.length > 0 && lines[0].trim() !== "" && !others(lines[0])) text.push(lines.shift());
  return inline(element("p"), text.join(" "));
}

function table(lines) {
  const rows = lines.map((line) => line.trim().slice(1, -1).split("|").map((cell) => cell.trim()));
  const hasHead = rows.length > 1 && RULE.test(lines[1]);
  const right = hasHead ? rows[1].map((cell) => cell.endsWith(":")) : [];
  const block = element("table");
  rows.forEach((cells, index) => {
    if (hasHead && (index === 1 || (index === 0 && cells.every((cell) => cell === "")))) return;
    const kind = hasHead && index === 0 ? "th" : "td";
    const row = element("tr");
    row.append(...cells.map((cell, column) => aligned(inline(element(kind), cell), right[column])));
    block.append(row);
  });
  const scroll = element("div");
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.append(block);
  return scroll;
}

function aligned(cell, right) {
  if (right) cell.className = "number";
  return cell;
}

function inline(parent, text) {
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    parent.append(text.slice(end, match.index), styled(match));
    end = match.index + match[0].length;
  }
  parent.append(text.slice(end));
  return parent;
}

function styled([whole, literal, strong, emphasis, picture, label, target]) {
  if (literal !== undefined) return element("code", literal);
  if (strong !== undefined) return inline(element("strong"), strong);
  if (emphasis !== undefined) return inline(element("em"), emphasis);
  if (picture) return element("em", label);
  return /^https?:\/\//i.test(target) ? link(label, target) : document.createTextNode(label || whole);
}

function link(label, target) {
  const anchor = element("a", label);
  anchor.href = target;
  anchor.rel = "noopener noreferrer";
  anchor.target = "_blank";
  return anchor;
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
