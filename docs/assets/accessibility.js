/* What the theme lacks for keyboards and screen readers: a name for the search, and boxes that scroll by keys. */
addEventListener("DOMContentLoaded", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll("nav.md-nav[data-md-level]").forEach((nav, place) => {
    if (!nav.hasAttribute("aria-labelledby")) nav.setAttribute("aria-label", `Navigation ${place + 1}`);
  });
  document.querySelectorAll(".md-typeset pre > code, .md-typeset .drawing").forEach(box => box.tabIndex = 0);
  setTimeout(() => document.querySelectorAll(".md-typeset__scrollwrap").forEach(box => box.tabIndex = 0), 500);
});
