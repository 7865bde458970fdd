/* The page: an image goes to the server, its mask comes back as an overlay with areas and times. */

import * as api from "./api.js";
import { Camera } from "./camera.js";
import { at, pill } from "./elements.js";
import { render } from "./markdown.js";
import * as panels from "./panels.js";
import { guarded } from "./problems.js";
import { Stage } from "./stage.js";

const LIVE_MS = 250;
const SMALLER_PX = 4096;
const JPEG_QUALITY = 0.92;

const stage = new Stage(at);
const camera = new Camera(at.video);
const session = { connection: null, models: [], image: null, name: "image", flight: null, live: false };
const UNCALIBRATED =
  "This model does not tell how sure it is, because it has no calibration or its file was exported without one: " +
  "run zoo calibrate on labeled images, export again with --output mask+reliability, and serve it again.";

/* Models */

/** Know the models of the server: asked for once, and again after a failure. */
function connected() {
  session.connection ??= connect();
  return session.connection;
}

async function connect() {
  try {
    session.models = await api.models();
  } catch (error) {
    session.connection = null;
    pill("Not connected", "bad");
    throw error;
  }
  at.model.replaceChildren(...session.models.map(({ name }) => new Option(name)));
  at.menu.hidden = session.models.length < 2;
  at.name.hidden = !at.menu.hidden;
  showModel();
}

function chosen() {
  return session.models.find(({ name }) => name === at.model.value);
}

function showModel() {
  const model = chosen();
  at.name.textContent = model.name;
  document.title = `${model.name} · zoo`;
  pill(model.ready ? "Ready" : "Warming up", model.ready ? "good" : "wait");
  at.facts.replaceChildren(...panels.facts(model));
  at.about.hidden = false;
  at.card.hidden = true;
  at.below.disabled = !tellsReliability();
  noteUnsure();
  stage.showAllClasses();
  if (stage.result === null) showClasses();
  guarded(showCard)(model);
}

async function showCard(model) {
  const text = await api.card(model.name);
  if (text === null || model !== chosen()) return;
  at.card.hidden = false;
  at.card.replaceChildren(render(text));
}

async function changeModel() {
  showModel();
  if (session.image !== null && !session.live) await segment(session.image, await bitmapOf(session.image));
}

function showClasses() {
  at["legend-title"].textContent = "Classes";
  at["legend-hint"].textContent = "What this model finds.";
  at.legend.replaceChildren(...panels.classList(chosen()?.classes ?? []));
}

/* Images */

async function choose(file) {
  stopCamera();
  await send(file, file.name.replace(/\.[^.]*$/, "") || "image");
}

async function send(image, name) {
  session.flight?.abort();
  Object.assign(session, { image, name });
  const bitmap = await bitmapOf(image);
  if (session.image !== image) return;
  hideResult();
  stage.showImage(bitmap);
  at.empty.hidden = at.video.hidden = true;
  at.frame.hidden = bitmap === null;
  at.photo.hidden = at.tools.hidden = false;
  await segment(image, bitmap, bitmap === null ? "This browser cannot show such a file: you see its mask alone." : "");
}

/** null where the browser cannot decode the file: the server may. */
function bitmapOf(blob) {
  return createImageBitmap(blob).catch(() => null);
}

async function segment(image, bitmap, note = "") {
  if (session.image !== image) return; // another one was chosen meanwhile
  session.flight?.abort();
  const flight = new AbortController();
  session.flight = flight;
  at.busy.hidden = Boolean(session.live);
  try {
    await connected();
    const result = await api.predict(image, at.model.value, tellsReliability(), flight.signal);
    if (session.flight !== flight) return;
    show(result, bitmap, note);
    grayOut();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (bitmap === null) showNothing();
    throw error;
  } finally {
    if (session.flight === flight) at.busy.hidden = true;
  }
}

function show(result, bitmap, note) {
  stage.showResult(bitmap, result);
  at["legend-title"].textContent = "Areas";
  at["legend-hint"].textContent = "Select a class to hide or show it.";
  at.legend.replaceChildren(...panels.areaList(result.areas, stage));
  at.total.textContent = panels.milliseconds(result.total);
  panels.showTimes(result, { bar: at.parts, table: at.times });
  at.problem.hidden = at.video.hidden = true;
  at.photo.hidden = at.latency.hidden = at.downloads.hidden = at.slider.hidden = at.sureness.hidden = false;
  at.note.textContent = note;
  at.note.hidden = note === "";
  pill("Ready", "good");
  if (!session.live) at.said.textContent = panels.spoken(result.areas);
}

function hideResult() {
  at.problem.hidden = at.latency.hidden = at.downloads.hidden = at.slider.hidden = at.note.hidden = true;
  at.sureness.hidden = at["below-note"].hidden = true;
  stage.showAllClasses();
  showClasses();
}

function showNothing() {
  at.frame.hidden = at.tools.hidden = true;
  at.empty.hidden = false;
}

async function sendSmaller() {
  const { image } = session;
  const bitmap = await bitmapOf(image);
  if (bitmap === null) throw new api.Problem("Not sent", "This browser cannot make such a file smaller: send a smaller one.");
  const scale = Math.min(1, SMALLER_PX / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((length) => Math.round(length * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  const smaller = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  if (session.image !== image) return;
  session.image = smaller;
  const note = `A smaller copy was sent: JPEG, ${width} × ${height} px of ${bitmap.width} × ${bitmap.height}.`;
  at.problem.hidden = true;
  await segment(smaller, await bitmapOf(smaller), note);
}

/* Reliability */

function tellsReliability() {
  return chosen()?.outputs.includes("reliability") ?? false;
}

/** Gray out what is less reliable than the slider says. */
function grayOut() {
  const below = tellsReliability() ? at.below.value / 100 : 0;
  at["below-percent"].textContent = below > 0 ? `${at.below.value}%` : "off";
  stage.grayOut(below);
  noteUnsure();
}

function noteUnsure() {
  at["below-note"].hidden = stage.result === null || chosen() === undefined;
  at["below-note"].textContent = tellsReliability() ? unsureText(at.below.value) : UNCALIBRATED;
}

function unsureText(below) {
  if (below > 0 && stage.hasReliability) {
    return `${panels.percent(stage.unsure)} of the pixels are gray: their class is right with a probability below ${below}%.`;
  }
  return "Move the slider to gray out pixels whose class is less likely to be right.";
}

/* Camera */

async function film() {
  if (!camera.isOn) await camera.start();
  session.flight?.abort();
  hideResult();
  stage.showImage(null);
  stage.shape(camera.size);
  at.empty.hidden = at.after.hidden = at.photo.hidden = true;
  at.video.hidden = at.tools.hidden = at.filming.hidden = false;
  at.shot.focus();
}

async function shoot() {
  const image = await camera.shot();
  stopCamera();
  await send(image, "camera");
}

async function goLive() {
  setLive(!session.live);
  const { live } = session;
  if (!live) await film();
  while (live && session.live === live) {
    const begin = performance.now();
    const image = await camera.shot();
    if (session.live !== live) return;
    Object.assign(session, { image, name: "camera" });
    await segment(image, await bitmapOf(image)).catch(waitOrStop);
    await pause(LIVE_MS - (performance.now() - begin));
  }
}

/** A full queue empties: live pictures wait for it. */
async function waitOrStop(problem) {
  if (problem.status !== 503) {
    setLive(false);
    throw problem;
  }
  pill("Busy", "wait");
  await pause(1000 * Math.max(1, problem.retryAfter));
}

function setLive(live) {
  session.live = live && {}; // one object for each loop
  at.live.setAttribute("aria-pressed", String(live));
  at.shot.hidden = live;
}

function stopCamera() {
  setLive(false);
  camera.stop();
  at.filming.hidden = true;
  at.after.hidden = false;
}

function leaveCamera() {
  stopCamera();
  if (stage.result === null) showNothing();
}

function pause(time) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, time)));
}

/* Downloads */

async function saveMask() {
  const { image, name } = session;
  save(await api.maskFile(image, at.model.value), name, "mask");
}

async function saveOverlay() {
  const { name } = session;
  save(await stage.overlay(at.opacity.value / 100), name, "overlay");
}

function save(blob, name, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}-${kind}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/* What the user does */

const chooseFile = guarded(choose);

function on(element, event, action) {
  element.addEventListener(event, action);
}

function take(files) {
  if (files?.length > 0) chooseFile(files[0]);
}

function setOpacity() {
  stage.setOpacity(at.opacity.value / 100);
  at.percent.textContent = `${at.opacity.value}%`;
}

on(at.file, "change", () => {
  take(at.file.files);
  at.file.value = "";
});
on(document, "paste", (event) => take(event.clipboardData?.files));
on(document, "dragover", (event) => {
  event.preventDefault();
  at.veil.hidden = false;
});
on(document, "dragleave", (event) => {
  if (event.relatedTarget === null) at.veil.hidden = true;
});
on(document, "drop", (event) => {
  event.preventDefault();
  at.veil.hidden = true;
  take(event.dataTransfer?.files);
});
on(document, "visibilitychange", () => document.hidden && camera.isOn && leaveCamera());
on(at.opacity, "input", setOpacity);
on(at.below, "input", grayOut);
on(at.model, "change", guarded(changeModel));
on(at.shot, "click", guarded(shoot));
on(at.live, "click", guarded(goLive));
on(at.stop, "click", leaveCamera);
on(at.shrink, "click", guarded(sendSmaller));
on(at["save-mask"], "click", guarded(saveMask));
on(at["save-overlay"], "click", guarded(saveOverlay));
for (const button of document.querySelectorAll("[data-camera]")) on(button, "click", guarded(film));

setOpacity();
guarded(connected)();
