// Tables sort by the column whose heading is clicked; clicking again reverses the order. Without this script the page
// is whole: headings are then plain text.
"use strict";

function key(row, column) {
  return row.cells[column].textContent.trim();
}

// "1,024", "93.9%" and "16KiB" as numbers.
function number(text) {
  const unit = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 }[text.slice(-3)] ?? 1;
  return parseFloat(text.replaceAll(",", "")) * unit;
}

function compare(first, second, numeric) {
  if (!first || !second) return first ? -1 : second ? 1 : 0; // empty cells last, in either direction
  if (!numeric) return first.localeCompare(second, "en", { numeric: true });
  return number(first) - number(second) || 0;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      const numeric = heading.classList.contains("number");
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((first, second) => {
        const [a, b] = [key(first, column), key(second, column)];
        const order = compare(a, b, numeric);
        return descending && a && b ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
