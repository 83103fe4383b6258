/** Elements of the page. Text is only ever set as text, so names can not become markup. */

const SVG = "http://www.w3.org/2000/svg";

/** Return a new element with attributes and children; strings become text. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for the parts of a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Change the text of an element only if it is another one: selections and focus stay. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function byId(id) {
  return document.getElementById(id);
}
