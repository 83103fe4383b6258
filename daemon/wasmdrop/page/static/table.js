/** Tables that change in place: rows keep their elements, so focus and scroll positions stay. */

import { element, setText, byId } from "./elements.js";
import { count, harmless } from "./format.js";

/** Rows that a long table shows until the reader asks for all: half as many as cards. */
const FEW = matchMedia("(max-width: 720px)").matches ? 5 : 10;

/**
 * A table in the section `id`. A column has a `label`, and `text(row)` or `fill(cell, row)`;
 * `kind` is a class name: "name" takes the room that is left, "number" is aligned to the right.
 */
export class Table {
  constructor(id, { columns, key, empty, few = FEW }) {
    this.columns = columns;
    this.key = key;
    this.few = few;
    this.rows = new Map();
    this.showsAll = false;
    const section = byId(id);
    this.heading = section.querySelector("h2");
    this.heading.tabIndex = -1; // takes the focus if the row that has it ends
    // The elements have these roles, but browsers drop them if a style makes rows into cards.
    const labels = columns.map((column) =>
      element("th", { scope: "col", role: "columnheader", class: column.kind ?? "" }, column.label),
    );
    this.body = element("tbody", { role: "rowgroup" });
    this.table = element(
      "table",
      { role: "table", "aria-labelledby": this.heading.id },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...labels)),
      this.body,
    );
    this.empty = element("p", { class: "empty" }, empty);
    this.more = element("button", { type: "button", class: "more", "aria-expanded": "false" });
    this.more.addEventListener("click", () => {
      this.showsAll = !this.showsAll;
      this.update(this.latest);
    });
    section.append(this.table, this.empty, this.more);
    this.update([]);
  }

  update(all) {
    this.latest = all;
    const shown = this.showsAll ? all : all.slice(0, this.few);
    this.table.hidden = all.length === 0;
    this.empty.hidden = all.length > 0;
    this.more.hidden = all.length <= this.few;
    this.more.setAttribute("aria-expanded", String(this.showsAll));
    setText(this.more, this.showsAll ? `Show ${this.few}` : `Show all ${count(all.length)}`);
    this.#removeOthers(new Set(shown.map(this.key)));
    let next = this.body.firstElementChild;
    for (const row of shown) {
      const line = this.#line(row);
      this.columns.forEach((column, index) => fillCell(line.cells[index], column, row));
      if (line === next) next = next.nextElementSibling;
      else this.body.insertBefore(line, next);
    }
  }

  #removeOthers(kept) {
    for (const [key, line] of this.rows) {
      if (kept.has(key)) continue;
      const hadFocus = line.contains(document.activeElement);
      line.remove();
      this.rows.delete(key);
      if (hadFocus) this.heading.focus({ preventScroll: true });
    }
  }

  #line(row) {
    const key = this.key(row);
    const known = this.rows.get(key);
    if (known) return known;
    const cells = this.columns.map((column) =>
      element("td", { role: "cell", class: column.kind ?? "", "data-label": column.label }),
    );
    const line = element("tr", { role: "row" }, ...cells);
    this.rows.set(key, line);
    return line;
  }
}

function fillCell(cell, column, row) {
  if (column.fill) column.fill(cell, row);
  else setText(cell, column.text(row));
}

/** Show a name of others in its own direction, with the whole name as a tooltip. */
export function fillName(cell, text) {
  const shown = harmless(text);
  const name = cell.firstElementChild ?? cell.appendChild(element("bdi", { class: "clip" }));
  if (name.textContent === shown) return;
  name.textContent = shown;
  name.title = shown;
}
