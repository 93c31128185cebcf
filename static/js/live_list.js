"use strict";

// A list that keeps itself up to date (refresh.js): new rows appear, and rows change. It waits
// while rows are chosen. An empty list is refreshed whole until it has rows; one without rows any
// more is loaded again.

const list = document.getElementById("result_list");
const region = list ?? document.getElementById("changelist-form");

/** Needed after each refresh, as the server's answer does not have these attributes. */
function keepUpToDate() {
  region.dataset.refreshUrl = location.pathname + location.search;
  region.dataset.refreshSeconds = "4";
}

if (region !== null) {
  keepUpToDate();
  region.addEventListener("refreshed", () => {
    keepUpToDate();
    if (list === null && document.getElementById("result_list") !== null) {
      location.reload();
    }
  });
  region.addEventListener("gone", (event) => {
    event.preventDefault();
    location.reload();
  });
}
