// The image that runs side by side have in common.

const followers = new Map();
export const shared = { linked: true, last: null };

/** Calls `take(image)` when another view publishes an image. */
export function follow(view, take) {
  followers.set(view, take);
}

/** Tells all other views of an image. */
export function publish(view, image) {
  shared.last = { view, image };
  if (!shared.linked) return;
  for (const [other, take] of followers) if (other !== view) take(image);
}

/** Links the views, or lets each have an image of its own. */
export function link(linked) {
  shared.linked = linked;
  if (linked && shared.last) publish(shared.last.view, shared.last.image);
}
