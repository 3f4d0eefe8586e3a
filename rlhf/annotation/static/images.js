"use strict";
// The image of a pair: loading, shown whole or as the model sees it, and zoomed.

let showsSeen = false; // the image as the model sees it, in place of the whole one

function loadImage(source, alt) {
  const image = new Image();
  image.alt = alt;
  image.addEventListener("load", () => {
    image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 160);
  });
  image.src = source;
  return image;
}

// Load the image of a pair, which nobody can judge before it is decoded.
function preload(pair) {
  const loaded = { ...pair, image: loadImage(pair.image, "the image that the answers are about") };
  loaded.state = "loading";
  loaded.image.decode().then(
    () => imageState(loaded, "ready"),
    () => imageState(loaded, "broken"),
  );
  return loaded;
}

const IMAGE_STATES = {
  loading: "loading the image …", ready: "", broken: "This image cannot be shown. Skip the pair.",
};

function imageState(pair, state) {
  pair.state = state;
  if (pair === current) showImage();
}

// Show the image of the current pair, or as much of it as there is, and what can be done with it.
function showImage() {
  const seen = showsSeen && current.seen;
  if (seen) current.seenImage ??= loadImage(current.seen, "the image as the model sees it");
  $("caption").textContent = IMAGE_STATES[current.state];
  $("image").replaceChildren(seen ? current.seenImage : current.image, $("caption"));
  for (const button of document.querySelectorAll(".needs-image")) button.disabled = current.state !== "ready";
  $("seen").hidden = !current.seen;
  $("seen").setAttribute("aria-pressed", String(Boolean(seen)));
  shownAt = performance.now();
}

function zoom() {
  if ($("zoom").open) return $("zoom").close();
  if (!current) return;
  $("zoom").replaceChildren($("image").querySelector("img").cloneNode());
  $("zoom").showModal();
}

function seen() {
  if (!current?.seen) return;
  showsSeen = !showsSeen;
  showImage();
}
