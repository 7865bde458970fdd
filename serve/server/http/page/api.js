/* Requests to this server. One that fails throws a Problem, whose message is for people. */

const KEY = "zoo-api-key";
const LARGE_BODY = 8e6;

export class Problem extends Error {
  constructor(title, detail, status = 0, { retryAfter = 0, tooLarge = false } = {}) {
    super(detail);
    Object.assign(this, { title, status, retryAfter, tooLarge });
  }
}

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export async function models() {
  return (await ask("models")).json();
}

/** The Markdown of a model's card, or null where it has none. */
export async function card(model) {
  try {
    return await (await ask(`models/${encodeURIComponent(model)}/card`)).text();
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

/**
 * The answer of a model: its areas and runs, where the time went (ms), and, of a calibrated model, the reliability of
 * every pixel, 0 to 255, row by row; null of others.
 */
export async function predict(image, model, isCalibrated, signal) {
  const begin = performance.now();
  const answer = await post(image, model, "json", signal, isCalibrated ? { output: "mask+reliability" } : {});
  const { outputs, ...found } = await answer.json();
  const reliability = isCalibrated ? bytesOf(outputs.reliability) : null;
  return { ...found, reliability, total: performance.now() - begin, parts: serverTiming(answer) };
}

export async function maskFile(image, model) {
  return (await post(image, model, "png")).blob();
}

function post(image, model, format, signal, output = {}) {
  const query = new URLSearchParams({ format, model, ...output });
  return ask(`predict?${query}`, { method: "POST", body: image, signal });
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw broken(options.body?.size ?? 0);
  }
  if (!answer.ok) throw await refused(answer);
  return answer;
}

/** A server that refuses a large body may close the connection before its answer is read. */
function broken(size) {
  if (size > LARGE_BODY) {
    const detail = `The connection broke while ${megabytes(size)} were sent: the image may be larger than this server takes.`;
    return new Problem("Not sent", detail, 0, { tooLarge: true });
  }
  return new Problem("No answer", "The server does not answer: is it running, and is this device online?");
}

async function refused(answer) {
  const { status } = answer;
  const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  const told = await answer.json().catch(() => ({}));
  const detail = typeof told.detail === "string" ? told.detail : `The server answered ${status}.`;
  const title = typeof told.title === "string" ? told.title : "Not done";
  return new Problem(title, detail, status, { retryAfter, tooLarge: status === 413 });
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function serverTiming(answer) {
  const parts = {};
  for (const entry of (answer.headers.get("Server-Timing") ?? "").split(",")) {
    const [name, ...fields] = entry.split(";").map((text) => text.trim());
    const duration = fields.find((field) => field.startsWith("dur="));
    if (duration) parts[name] = Number(duration.slice(4));
  }
  return parts;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}
