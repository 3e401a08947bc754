// Buttons and fields.

// onEnter acts instead of breaking the line, unless Shift is held.
export function onEnter(field, act) {
  let shift = false;
  field.addEventListener("keydown", (e) => (shift = e.shiftKey));
  field.addEventListener("beforeinput", (e) => {
    if (e.inputType !== "insertLineBreak" || shift) return;
    e.preventDefault();
    act();
  });
}

export function button(text, act, kind = "") {
  const b = document.createElement("button");
  b.type = "button";
  b.className = kind;
  b.textContent = text;
  b.addEventListener("click", act);
  return b;
}
