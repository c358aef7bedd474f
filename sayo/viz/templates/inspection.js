"use strict";
const get = (id) => document.getElementById(id), cards = [...document.querySelectorAll("article")];
function filter() {
  const words = get("words").value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.hidden = (get("source").value && card.dataset.source !== get("source").value)
      || (get("type").value && card.dataset.type !== get("type").value)
      || !card.querySelector(".texts").textContent.toLowerCase().includes(words);
    shown += !card.hidden;
  }
  get("count").textContent = `${shown} of ${cards.length} rows shown`;
}
for (const id of ["source", "type", "words"]) get(id).addEventListener("input", filter);
for (const id of ["boxes", "masks"])
  get(id).addEventListener("input", (event) => document.body.classList.toggle("no-" + id, !event.target.checked));
filter();
