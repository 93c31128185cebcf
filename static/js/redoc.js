"use strict";

// ReDoc's footer asks its maker's server for a picture. The page's policy forbids that and browsers
// complain; so the picture is never asked for.
const source = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");

function isOurs(address) {
  const url = new URL(address, location.href);
  return url.protocol === "data:" || url.origin === location.origin;
}

Object.defineProperty(HTMLImageElement.prototype, "src", {
  ...source,
  set(address) {
    if (isOurs(address)) {
      source.set.call(this, address);
    }
  },
});

HTMLImageElement.prototype.setAttribute = function (name, value) {
  if (name !== "src" || isOurs(value)) {
    Element.prototype.setAttribute.call(this, name, value);
  }
};
