// Sort and filter the ledger of claims; no library, no network.
(() => {
  const ledger = document.querySelector(".ledger");
  const body = ledger.querySelector("tbody");
  const rows = [...body.rows];
  const search = ledger.querySelector("input");
  const choices = [...ledger.querySelectorAll("select")];
  const shown = ledger.querySelector("output");
  const text = (row, column) => row.cells[column].textContent;

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const whole = row.textContent.toLowerCase();
      const chosen = choices.every((c) => !c.value || text(row, c.dataset.column) === c.value);
      row.hidden = !(chosen && words.every((word) => whole.includes(word)));
      count += !row.hidden;
    }
    shown.value = `${count} of ${rows.length} rows`;
  }

  function sort(column, header) {
    const down = header.getAttribute("aria-sort") === "ascending";
    ledger.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = new Intl.Collator("en", { numeric: true }).compare;
    const key = (row) => parseFloat(text(row, column));
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      return Number.isNaN(x) || Number.isNaN(y) ? compare(text(a, column), text(b, column)) : x - y;
    };
    rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
    body.append(...rows);
  }

  search.addEventListener("input", filter);
  choices.forEach((choice) => choice.addEventListener("change", filter));
  ledger.querySelectorAll("th").forEach((th, column) =>
    th.querySelector("button").addEventListener("click", () => sort(column, th)));
  filter();
})();
