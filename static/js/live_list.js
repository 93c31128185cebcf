"use strict";

// A list that keeps itself up to date (refresh.js): new rows appear, what a row says changes. Where
// rows are chosen the list waits. An empty one is looked at whole, until there is something in it;
// one whose last row has gone is loaded again.

const REFRESH_SECONDS = "4";

function keepUpToDate(element) {
  element.dataset.refreshUrl = location.pathname + location.search;
  element.dataset.refreshSeconds = REFRESH_SECONDS;
}

const list = document.getElementById("result_list");
const empty = document.getElementById("changelist-form");
if (list !== null) {
  keepUpToDate(list);
  list.addEventListener("gone", (event) => {
    event.preventDefault();
    location.reload();
  });
} else if (empty !== null) {
  keepUpToDate(empty);
  empty.addEventListener("refreshed", () => {
    if (document.getElementById("result_list") !== null) {
      location.reload();
    }
  });
}
