/* From the runs of an answer to pixels. */

const PAPER = pack(255, 255, 255, 255);
const INK = pack(32, 33, 36, 255);
const UNSURE = pack(128, 128, 128, 254); // no class has this alpha; drawn as stripes of two grays
const STRIPES = [pack(152, 152, 152, 255), pack(104, 104, 104, 255)];

/** The label of every pixel, row by row. */
export function expand({ labels, lengths }, count) {
  const Labels = labels.some((label) => label > 255) ? Uint16Array : Uint8Array;
  const pixels = new Labels(count);
  let begin = 0;
  for (let run = 0; run < labels.length; run += 1) {
    const end = begin + lengths[run];
    pixels.fill(labels[run], begin, end);
    begin = end;
  }
  if (begin !== count) throw new Error(`the answer holds ${begin} pixels, expected ${count}`);
  return pixels;
}

/** Colors by label, packed for `paint`: black means "nothing" in these palettes and is left out. */
export function colorTable(areas, hidden) {
  const table = new Uint32Array(1 + Math.max(...areas.map(({ label }) => label)));
  for (const { label, color } of areas) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
    if (!hidden.has(label) && red + green + blue > 0) table[label] = pack(red, green, blue, 255);
  }
  return table;
}

/**
 * Fill a canvas with the colors of labels, nearest pixel, with a thin line around each area, and with gray stripes
 * where `isUnsure`, a function of the pixel's index, says so.
 */
export function paint(canvas, labels, [height, width], colors, isUnsure) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const colorOf = (index) => (isUnsure(index) ? UNSURE : colors[labels[index]]);
  const flat = resampled([height, width], [canvas.height, canvas.width], colorOf);
  const out = new Uint32Array(image.data.buffer);
  out.set(flat);
  const thickness = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 1000));
  outline(out, flat, canvas.width, thickness);
  stripe(out, canvas.width, 4 * thickness);
  context.putImageData(image, 0, 0);
}

function resampled([height, width], [rows, columns], colorOf) {
  const flat = new Uint32Array(rows * columns);
  const sources = Uint32Array.from({ length: columns }, (_, x) => Math.floor(((x + 0.5) * width) / columns));
  for (let y = 0, at = 0; y < rows; y += 1) {
    const row = Math.floor(((y + 0.5) * height) / rows) * width;
    for (let x = 0; x < columns; x += 1, at += 1) flat[at] = colorOf(row + sources[x]);
  }
  return flat;
}

/** White on one side of a border and dark on the other, to be seen on any image. */
function outline(out, flat, width, thickness) {
  const rows = flat.length / width;
  for (let y = 0, at = 0; y < rows; y += 1) {
    for (let x = 0; x < width; x += 1, at += 1) {
      const color = flat[at];
      for (let near = 1; near <= thickness; near += 1) {
        if ((x >= near && flat[at - near] !== color) || (y >= near && flat[at - near * width] !== color)) {
          out[at] = INK;
        }
        const right = x + near < width && flat[at + near] !== color;
        if (right || (y + near < rows && flat[at + near * width] !== color)) {
          out[at] = PAPER;
          break;
        }
      }
    }
  }
}

/** Diagonal stripes in place of `UNSURE`. */
function stripe(out, width, thickness) {
  for (let at = 0; at < out.length; at += 1) {
    if (out[at] === UNSURE) out[at] = STRIPES[Math.floor(((at % width) + Math.floor(at / width)) / thickness) % 2];
  }
}

/** RGBA as canvases hold it, in the byte order of this machine. */
function pack(red, green, blue, alpha) {
  return new Uint32Array(Uint8Array.of(red, green, blue, alpha).buffer)[0];
}
