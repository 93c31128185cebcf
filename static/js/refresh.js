"use strict";

// Regions of a page that keep themselves up to date:
//
//   <section id="queue" data-refresh-url="/admin/queue-part" data-refresh-seconds="5">…</section>
//
// The address answers HTML with the element of the same id (a whole page will do), and the region
// becomes that element: what is the same stays the very element that it was, so that the focus, an
// opened <details> and what is scrolled stay as they are. Rows with an id are recognised by it.
//
// - One request at a time; the next one so many seconds after the last answer.
// - None in a hidden tab; one at once when it is shown again.
// - While something in the region is selected, or a form in it has the focus or was filled in, the
//   region stays as it is.
// - The new element's attributes count from then on: without data-refresh-url the region is final.
// - 204: nothing is new. 401, 403, 404, or a redirection to the login: the region is not requested
//   again. Any other failure: it is requested again, ever less often.
// - data-refresh-state is "fresh", "late" (it failed) or "ended" (refused). An element
//   [data-refresh-notice] in the region or, without one, in the page, shows the last two in words.
// - The event "refresh" on a region refreshes it at once. It sends "refreshed" afterwards, and
//   "gone" if the answer has no such region: a failure unless a listener prevents the default.

const SLOWEST_MS = 60_000;
const TIMEOUT_MS = 15_000;
const NOTICE = "[data-refresh-notice]";
/** The worst state first: a notice for all regions of the page shows that one. */
const WORDS = {
  ended: "Not up to date: you may no longer see this, or are logged out. Load the page again.",
  late: "Not up to date: the service does not answer. It is asked again.",
  fresh: "",
};

/** For each region: its timer, whether it is being requested, and how often in a row it failed. */
const regions = new Map();

function begin() {
  for (const region of document.querySelectorAll("[data-refresh-url]")) {
    if (!regions.has(region)) {
      regions.set(region, { timer: 0, asking: false, failures: 0 });
      region.addEventListener("refresh", () => ask(region));
      wait(region);
    }
  }
}

function wait(region) {
  const state = regions.get(region);
  clearTimeout(state?.timer);
  if (state !== undefined && !document.hidden && canRefresh(region)) {
    const every = 1000 * (Number(region.dataset.refreshSeconds) || 5);
    const pause = Math.max(every, Math.min(SLOWEST_MS, every * 2 ** state.failures));
    state.timer = setTimeout(() => ask(region), pause);
  }
}

function canRefresh(region) {
  return region.isConnected && region.dataset.refreshUrl && region.dataset.refreshState !== "ended";
}

async function ask(region) {
  const state = regions.get(region);
  if (state === undefined || state.asking || document.hidden || !canRefresh(region)) {
    return;
  }
  clearTimeout(state.timer);
  state.asking = true;
  try {
    await refresh(region);
    state.failures = 0;
  } catch {
    state.failures += 1;
    show(region, "late");
  } finally {
    state.asking = false;
    wait(region);
  }
}

async function refresh(region) {
  const address = region.dataset.refreshUrl;
  const response = await fetch(address, {
    headers: { Accept: "text/html" },
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (response.redirected || [401, 403, 404].includes(response.status)) {
    show(region, "ended");
    return;
  }
  if (!response.ok) {
    throw new Error(`${address} answered ${response.status}`);
  }
  if (response.status !== 204 && !become(region, await response.text(), address)) {
    return;
  }
  show(region, "fresh");
}

/** Makes the region what was answered, unless the user works in it; returns whether it did. */
function become(region, html, address) {
  const answered = new DOMParser().parseFromString(html, "text/html").getElementById(region.id);
  if (answered === null) {
    if (!region.dispatchEvent(new CustomEvent("gone", { cancelable: true }))) {
      return false;
    }
    throw new Error(`${address} answered no element #${region.id}`);
  }
  // If it was given another address meanwhile, this is no longer what it should show.
  if (isBusy(region) || region.dataset.refreshUrl !== address) {
    return false;
  }
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  morph(region, answered);
  keepFocus(region, focused);
  begin();
  region.dispatchEvent(new CustomEvent("refreshed", { bubbles: true }));
  return true;
}

function isBusy(region) {
  const selection = getSelection();
  if (!selection.isCollapsed && selection.containsNode(region, true)) {
    return true;
  }
  const fields = region.querySelectorAll("input, select, textarea, [contenteditable]");
  return [...fields].some((field) => field === document.activeElement || isFilledIn(field));
}

function isFilledIn(field) {
  if (field.type === "hidden") {
    return false;
  }
  if (field.type === "checkbox" || field.type === "radio") {
    return field.checked !== field.defaultChecked;
  }
  if (field.options !== undefined) {
    return isChosen(field, [...field.options]);
  }
  return field.value !== undefined && field.value !== field.defaultValue;
}

/** Whether another option is chosen than when the page was loaded: the first one, by default. */
function isChosen(field, options) {
  if (!field.multiple && !options.some((option) => option.defaultSelected)) {
    return field.selectedIndex > 0;
  }
  return options.some((option) => option.selected !== option.defaultSelected);
}

/** Gives the focus back to an element that was moved, or to the region if the element is gone. */
function keepFocus(region, focused) {
  if (focused === null || focused === document.activeElement) {
    return;
  }
  if (!focused.isConnected) {
    region.tabIndex = -1;
    focused = region;
  }
  focused.focus({ preventScroll: true });
}

function morph(old, wanted) {
  copyAttributes(old, wanted);
  removeUnwanted(old, wanted);
  let next = old.firstChild;
  for (const node of [...wanted.childNodes]) {
    const match = matching(old, next, node);
    if (match === null) {
      old.insertBefore(document.importNode(node, true), next);
      continue;
    }
    if (match === next) {
      next = next.nextSibling;
    } else {
      old.insertBefore(match, next);
    }
    if (match.nodeType === Node.ELEMENT_NODE) {
      morph(match, node);
    } else if (match.nodeValue !== node.nodeValue) {
      match.nodeValue = node.nodeValue;
    }
  }
  while (next !== null) {
    const rest = next;
    next = next.nextSibling;
    rest.remove();
  }
}

/** Removes rows that are gone first, so that those after them are recognised. */
function removeUnwanted(old, wanted) {
  const ids = new Set([...wanted.children].map((child) => child.id));
  for (const child of [...old.children]) {
    if (child.id && !ids.has(child.id)) {
      child.remove();
    }
  }
}

/** The child of `old` that becomes `node`: the one with its id, or the next one of its kind. */
function matching(old, next, node) {
  if (node.id) {
    const known = document.getElementById(node.id);
    return known?.parentNode === old && known.nodeName === node.nodeName ? known : null;
  }
  return next !== null && next.nodeName === node.nodeName && !next.id ? next : null;
}

/** All but what the user did (opened a part) and what this script wrote. */
function copyAttributes(old, wanted) {
  const own = (name) => name === "open" || name === "data-refresh-state" || name === "tabindex";
  for (const { name, value } of [...wanted.attributes]) {
    if (!own(name) && old.getAttribute(name) !== value) {
      old.setAttribute(name, value);
    }
  }
  for (const { name } of [...old.attributes]) {
    if (!own(name) && !wanted.hasAttribute(name)) {
      old.removeAttribute(name);
    }
  }
}

/** Shows the region's state, and forgets regions that were removed with a larger one. */
function show(region, state) {
  region.dataset.refreshState = state;
  for (const [each, { timer }] of regions) {
    if (!each.isConnected) {
      clearTimeout(timer);
      regions.delete(each);
    }
  }
  const own = region.querySelector(NOTICE);
  const notice = own ?? document.querySelector(NOTICE);
  const states = own ? [state] : [...regions.keys()].map((each) => each.dataset.refreshState);
  const words = WORDS[Object.keys(WORDS).find((each) => states.includes(each))];
  if (notice !== null && notice.textContent !== words) {
    notice.textContent = words;
  }
}

document.addEventListener("visibilitychange", () => {
  for (const region of regions.keys()) {
    document.hidden ? clearTimeout(regions.get(region).timer) : ask(region);
  }
});
begin();
