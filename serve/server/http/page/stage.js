/* The stage: an image with its mask over it, and what is under the pointer. */

import { Problem } from "./api.js";
import { colorTable, expand, paint } from "./mask.js";

const SHOWN_PX = 2048;
const MAX_RELIABILITY = 255;

export class Stage {
  #elements;
  #bitmap = null;
  #result = null;
  #labels = null;
  #reliability = null;
  #below = 0;
  #hidden = new Set();

  constructor(elements) {
    this.#elements = elements;
    elements.frame.addEventListener("pointermove", (event) => this.#tell(event));
    elements.frame.addEventListener("pointerleave", () => (elements.under.hidden = true));
  }

  get result() {
    return this.#result;
  }

  /** Show an image alone, while its mask is awaited; null where the browser cannot show it. */
  showImage(bitmap) {
    this.#keep(bitmap);
    this.#result = null;
    this.#elements.mask.hidden = true;
    if (bitmap !== null) this.#fit([bitmap.height, bitmap.width]);
  }

  /** Show an image and its mask; classes that were hidden stay hidden. Without a reliability nothing is gray. */
  showResult(bitmap, result) {
    const [height, width] = result.size;
    this.#keep(bitmap);
    this.#reliability = result.reliability;
    this.#labels = expand(result.rle, height * width);
    this.#result = result;
    this.#fit(result.size);
    this.#elements.mask.hidden = false;
    this.#paint();
  }

  showAllClasses() {
    this.#hidden.clear();
  }

  isHidden(label) {
    return this.#hidden.has(label);
  }

  toggle(label) {
    if (!this.#hidden.delete(label)) this.#hidden.add(label);
    this.#paint();
  }

  setOpacity(opacity) {
    this.#elements.mask.style.opacity = opacity;
  }

  get hasReliability() {
    return this.#reliability !== null;
  }

  /** Gray out the pixels with a reliability below this share. */
  grayOut(below) {
    this.#below = below;
    if (this.hasReliability) this.#paint();
  }

  /** The share of the pixels that are gray. */
  get unsure() {
    let count = 0;
    for (let index = 0; index < this.#reliability.length; index += 1) count += this.#isUnsure(index);
    return count / this.#reliability.length;
  }

  /** The overlay as it is seen, at the image's size, as a PNG; a Problem where the browser has no canvas so large. */
  async overlay(opacity) {
    const [height, width] = this.#result.size;
    const [picture, mask] = [canvasOf(height, width), canvasOf(height, width)];
    this.#paint(mask);
    const context = picture.getContext("2d");
    if (this.#bitmap !== null) context.drawImage(this.#bitmap, 0, 0, width, height);
    context.globalAlpha = opacity;
    context.drawImage(mask, 0, 0);
    const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/png"));
    if (blob === null) throw new Problem("Not saved", "Too large for this browser: ask the server for format=overlay.");
    return blob;
  }

  /** Give the frame the shape of an image, so that its canvases fill it. */
  shape([height, width]) {
    this.#elements.frame.hidden = false;
    this.#elements.frame.style.setProperty("--ratio", width / height);
  }

  #keep(bitmap) {
    if (this.#bitmap !== bitmap) this.#bitmap?.close();
    this.#bitmap = bitmap;
  }

  #fit(size) {
    const { photo, mask } = this.#elements;
    const scale = Math.min(1, SHOWN_PX / Math.max(...size));
    const [height, width] = size.map((length) => Math.max(1, Math.round(length * scale)));
    this.shape(size);
    Object.assign(photo, { height, width });
    Object.assign(mask, { height, width });
    const context = photo.getContext("2d");
    context.imageSmoothingQuality = "high";
    if (this.#bitmap !== null) context.drawImage(this.#bitmap, 0, 0, width, height);
  }

  #paint(canvas = this.#elements.mask) {
    const colors = colorTable(this.#result.areas, this.#hidden);
    paint(canvas, this.#labels, this.#result.size, colors, (index) => this.#isUnsure(index));
  }

  #isUnsure(index) {
    return this.#reliability !== null && this.#reliability[index] < MAX_RELIABILITY * this.#below;
  }

  #tell(event) {
    const { frame, under } = this.#elements;
    under.hidden = this.#result === null;
    if (under.hidden) return;
    const [height, width] = this.#result.size;
    const box = frame.getBoundingClientRect();
    const x = within(((event.clientX - box.left) / box.width) * width, width);
    const y = within(((event.clientY - box.top) / box.height) * height, height);
    const pixel = y * width + x;
    const area = this.#result.areas.find(({ label }) => label === this.#labels[pixel]);
    const sure = this.hasReliability ? ` ${Math.round((100 * this.#reliability[pixel]) / MAX_RELIABILITY)}%` : "";
    under.firstElementChild.style.background = area.color;
    under.lastElementChild.textContent = area.name + sure;
  }
}

function canvasOf(height, width) {
  return Object.assign(document.createElement("canvas"), { height, width });
}

function within(place, length) {
  return Math.min(length - 1, Math.max(0, Math.floor(place)));
}
