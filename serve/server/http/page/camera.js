/* The camera: its picture in a video element, and frames of it as JPEG. */

import { Problem } from "./api.js";

const QUALITY = 0.9;
const REASONS = {
  NotAllowedError: "The camera is blocked: allow it for this page in the settings of the browser.",
  NotFoundError: "No camera was found on this device: choose a file.",
  NotReadableError: "The camera is in use by another program: close that and try again.",
};

export class Camera {
  #video;
  #starting = null;
  #canvas = document.createElement("canvas");

  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#video.srcObject !== null;
  }

  get size() {
    return [this.#video.videoHeight, this.#video.videoWidth];
  }

  /** Two clicks start it once. */
  start() {
    this.#starting ??= this.#start().finally(() => (this.#starting = null));
    return this.#starting;
  }

  async #start() {
    if (!navigator.mediaDevices) {
      throw new Problem("No camera", "Browsers allow the camera on https and on localhost only: choose a file.");
    }
    const wanted = { video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false };
    try {
      this.#video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      throw new Problem("No camera", REASONS[error.name] ?? `The camera does not start: ${error.message}`);
    }
    await this.#video.play();
  }

  shot() {
    [this.#canvas.height, this.#canvas.width] = this.size;
    this.#canvas.getContext("2d").drawImage(this.#video, 0, 0);
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }

  stop() {
    for (const track of this.#video.srcObject?.getTracks() ?? []) track.stop();
    this.#video.srcObject = null;
  }
}
