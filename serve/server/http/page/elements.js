/* The elements of the page, by id. */

export const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

/** Say at the top how the server is: `good`, `wait` or `bad`. */
export function pill(text, kind) {
  at.state.textContent = text;
  at.state.className = `pill ${kind}`;
}
