/* What the theme lacks for keyboards and screen readers: names of landmarks, and boxes that scroll by keys. */
(() => {
  const scrollable = ".md-typeset__scrollwrap, .md-typeset pre > code, .md-typeset .drawing";
  const mend = () => {
    document.querySelectorAll(scrollable).forEach(box => { if (box.tabIndex !== 0) box.tabIndex = 0; });
    document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((nav, place) => {
      nav.setAttribute("aria-label", `Code ${nav.closest("pre")?.id.match(/\d+$/)?.[0] ?? place}`);
    });
  };
  addEventListener("DOMContentLoaded", () => {
    document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
    document.querySelectorAll("nav.md-nav[data-md-level]").forEach((nav, place) => {
      const title = document.getElementById(nav.getAttribute("aria-labelledby"))?.textContent.trim();
      nav.removeAttribute("aria-labelledby");
      nav.setAttribute("aria-label", `Navigation ${place + 1}${title ? `: ${title}` : ""}`);
    });
    document.querySelectorAll(".md-header__button[for=__drawer], .md-header__button[for=__search]").forEach(label => {
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.setAttribute("aria-label", label.htmlFor === "__drawer" ? "Open the navigation" : "Open the search");
      label.addEventListener("keydown", event => {
        if (event.key !== " ") return; // the theme itself takes Enter
        event.preventDefault();
        label.click();
      });
    });
    const drawer = document.getElementById("__drawer");
    const menu = document.querySelector(".md-header__button[for=__drawer]");
    drawer?.addEventListener("change", () => {
      if (drawer.checked && document.activeElement === menu) {
        setTimeout(() => document.querySelector(".md-sidebar--primary a")?.focus(), 300); // once it is in view
      }
    });
    addEventListener("keydown", event => {
      if (event.key !== "Escape" || !drawer?.checked) return;
      drawer.click();
      menu.focus();
    });
    mend();
    // The theme wraps tables and adds buttons to code later, when these come into view.
    new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
  });
})();
