"use strict";
// The points of a chart tell their numbers: to the pointer the nearest one, to the arrow keys one after the other.
for (const svg of document.querySelectorAll(".chart > svg")) {
  const figure = svg.parentElement, tip = figure.querySelector(".tip");
  const ring = document.createElementNS(svg.namespaceURI, "circle");
  ring.setAttribute("class", "ring off");
  ring.setAttribute("r", 7);
  svg.append(ring);
  const all = [...svg.querySelectorAll(".series")].reverse().map((group) => {
    const tips = JSON.parse(group.dataset.tips);
    return [...group.querySelector("polyline").points].map((at, i) => ({ x: at.x, y: at.y, group, text: tips[i] }));
  });
  let series = 0, place = -1;
  const seen = () => all.filter((points) => !points[0].group.classList.contains("off"));

  function show(point) {
    ring.setAttribute("cx", point.x);
    ring.setAttribute("cy", point.y);
    ring.classList.remove("off");
    tip.textContent = point.group.dataset.name + "\n" + point.text;
    tip.hidden = false;
    const at = new DOMPoint(point.x, point.y).matrixTransform(svg.getScreenCTM()), box = figure.getBoundingClientRect();
    const left = at.x - box.left - tip.offsetWidth / 2, above = at.y - box.top - tip.offsetHeight - 12;
    tip.style.left = Math.max(0, Math.min(left, box.width - tip.offsetWidth)) + "px";
    tip.style.top = (above < 0 ? at.y - box.top + 14 : above) + "px";
  }
  function hide() {
    tip.hidden = true;
    ring.classList.add("off");
    place = -1;
  }
  function point(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let nearest = null, least = 60 * 60;
    for (const points of seen())
      for (const one of points) {
        const distance = (one.x - at.x) ** 2 + (one.y - at.y) ** 2;
        if (distance < least) [nearest, least] = [one, distance];
      }
    nearest ? show(nearest) : hide();
  }
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const shown = seen(), along = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const across = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return hide();
    if ((!along && !across) || !shown.length) return;
    event.preventDefault();
    series = (series + (place < 0 ? 0 : across || 0) + shown.length) % shown.length;
    const last = shown[series].length - 1;
    place = Math.max(0, Math.min(place + (along || (place < 0 ? 1 : 0)), last));
    show(shown[series][place]);
  });
}
// A legend's buttons show and hide the series of their name in the charts of their section.
for (const button of document.querySelectorAll(".legend button"))
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const group of button.closest("section").querySelectorAll(".series"))
      if (group.dataset.name === button.dataset.name) group.classList.toggle("off", off);
  });
