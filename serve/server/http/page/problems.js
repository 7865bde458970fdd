/* What went wrong, said to people; and the form that asks for the API key. */

import { Problem, hasKey, rememberKey } from "./api.js";
import { at, pill } from "./elements.js";

const TITLES = {
  400: "This image cannot be read",
  403: "This server takes requests from its own machine only",
  413: "This image is too large",
  415: "This kind of file is not taken",
  500: "The model failed on this image",
  503: "The server is busy",
  504: "The server took too long",
};

let retry = null;

/** Return a function that does something and shows what goes wrong; after a key was given it is done again. */
export function guarded(action) {
  return async function attempt(...values) {
    try {
      await action(...values);
    } catch (error) {
      complain(error, () => attempt(...values));
    }
  };
}

function complain(error, again) {
  if (error.status === 401) {
    askForKey(again);
    return;
  }
  at["problem-title"].textContent = TITLES[error.status] ?? error.title ?? "Not done";
  at["problem-detail"].textContent = error.message;
  at.shrink.hidden = !(error instanceof Problem && error.tooLarge);
  at.problem.hidden = false;
}

function askForKey(again) {
  retry = again;
  at.refused.hidden = !hasKey();
  at.key.hidden = false;
  pill("Key needed", "wait");
  at.secret.focus();
}

at.key.addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey(at.secret.value.trim());
  at.secret.value = "";
  at.key.hidden = at.problem.hidden = true;
  retry();
});
