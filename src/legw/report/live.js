"use strict";
// Keeps the page of a running study up to date. The server is asked for the version of what it
// shows; of another one the parts that have changed are put in place of the old ones. Whatever has
// not changed stays as it is: open parts, sorted tables, chosen units, the place that is read.
(() => {
  const main = document.querySelector("main");
  const state = document.getElementById("live");
  const every = 1000 * Number(main.dataset.every);
  const containers = ["SECTION", "DETAILS"];
  let known = main.cloneNode(true); // as the server sent it: page.js draws into it only later

  function tell(line, gone) {
    if (state.textContent !== line) state.textContent = line;
    state.classList.toggle("gone", gone);
  }

  // A part's name, by which it is found again in another version.
  function nameOf(part) {
    const heading = part.tagName === "DETAILS" && part.querySelector("summary");
    return part.tagName + (part.id || (heading ? heading.textContent.split(" · ")[0] : ""));
  }

  // Put the children of `next` in place of those of `shown`, which came from `old`; add those that
  // are new to `fresh`.
  function patch(shown, old, next, fresh) {
    const before = [...shown.children];
    const source = [...old.children];
    const free = new Set(source.keys());
    const take = (fits) => {
      const at = [...free].find((each) => fits(source[each]));
      free.delete(at);
      return at;
    };
    const same = [...next.children].map((child) =>
      take((each) => each.outerHTML === child.outerHTML));
    const after = [...next.children].map((child, place) => {
      if (same[place] !== undefined) return before[same[place]];
      const at = containers.includes(child.tagName)
        ? take((each) => nameOf(each) === nameOf(child)) : undefined;
      if (at === undefined) {
        const made = document.importNode(child, true);
        fresh.push(made);
        return made;
      }
      patch(before[at], source[at], child, fresh);
      return before[at];
    });
    if (after.length === before.length) {
      after.forEach((each, place) => {
        if (each !== shown.children[place]) shown.children[place].replaceWith(each);
      });
    } else if (after.some((each, place) => each !== before[place])) {
      shown.replaceChildren(...after);
    }
  }

  // What a reader has chosen within parts that may be replaced.
  function choices() {
    const units = [...document.querySelectorAll(".units input:checked")];
    const tables = [...document.querySelectorAll("table.sortable")];
    return {
      units: units.map((each) => [each.name, each.value]),
      sorted: tables.map((table) => {
        const heads = [...table.tHead.rows[0].cells];
        const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
        return column < 0 ? null : [column, heads[column].getAttribute("aria-sort")];
      }),
      heights: Object.fromEntries([...document.querySelectorAll(".chart")].map((box) =>
        [box.dataset.spec, box.offsetHeight])),
    };
  }

  function restore(chosen, fresh) {
    const within = (selector) => fresh.flatMap((part) => all(part, selector));
    for (const [name, value] of chosen.units) {
      for (const input of within(".units input")) {
        if (input.name === name && input.value === value) input.checked = true;
      }
    }
    for (const box of within(".chart")) {
      const height = chosen.heights[box.dataset.spec];
      if (height) box.style.minHeight = `${height}px`;
      settle(box);
    }
    fresh.forEach(prepare);
    const tables = [...document.querySelectorAll("table.sortable")];
    for (const table of within("table.sortable")) {
      const [column, way] = chosen.sorted[tables.indexOf(table)] ?? [];
      const button = table.tHead.rows[0].cells[column]?.querySelector("button");
      button?.click();
      if (way === "descending") button?.click();
    }
  }

  // A chart keeps its old height until it is drawn, so that nothing below it moves.
  function settle(box) {
    if (box.querySelector("svg") || !box.isConnected) box.style.minHeight = "";
    else setTimeout(() => settle(box), 50);
  }

  // All parts with their places in the window, those at its top first: the first of them that stays
  // is to stay where it is.
  function places() {
    const parts = [...main.querySelectorAll("section > *, details[open] > *")];
    return parts.map((part) => [part, part.getBoundingClientRect().top])
      .sort(([, one], [, other]) => Math.abs(one) - Math.abs(other));
  }

  function change(next) {
    const chosen = choices();
    const before = places();
    const fresh = [];
    patch(main, known, next, fresh);
    known = next;
    main.dataset.version = next.dataset.version;
    restore(chosen, fresh);
    const [anchor, top] = before.find(([part]) => part.isConnected) ?? [];
    if (anchor) window.scrollBy(0, anchor.getBoundingClientRect().top - top);
  }

  async function ask(place) {
    const answer = await fetch(place, { cache: "no-store" });
    if (!answer.ok) throw new Error(`${place}: ${answer.status}`);
    return answer.text();
  }

  async function look() {
    try {
      const version = await ask("version");
      if (version !== main.dataset.version) {
        const text = await ask("main");
        change(new DOMParser().parseFromString(text, "text/html").querySelector("main"));
        tell(`Live: changed at ${new Date().toLocaleTimeString()}`, false);
      } else if (state.classList.contains("gone")) {
        tell("Live: kept up to date while runs go on", false);
      }
    } catch {
      tell("legw watch --serve does not answer: this is what it showed last", true);
    }
    setTimeout(look, every);
  }

  document.documentElement.style.overflowAnchor = "none"; // `change` keeps the place itself
  setTimeout(look, every);
})();
