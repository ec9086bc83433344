// The radio buttons choose a step without this script; it puts a slider in their place.
const radios = [...document.querySelectorAll("input[name=step]")];
const bar = document.querySelector(".steps");
if (bar !== null && radios.length > 1) {
  const slider = document.createElement("input"), button = document.createElement("button");
  const told = document.createElement("output");
  let timer = null;
  const at = () => radios.findIndex(radio => radio.checked);
  const step = radio => radio.id.replace("step-", "");
  const show = () => { slider.value = at(); told.textContent = "step " + step(radios[at()]); };
  const choose = place => { radios[place].checked = true; show(); };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  const play = () => {
    if (at() === radios.length - 1) { choose(0); }
    button.textContent = "Pause";
    timer = setInterval(() => {
      if (at() === radios.length - 1) { stop(); } else { choose(at() + 1); }
    }, 400);
  };
  slider.type = "range";
  slider.min = 0;
  slider.max = radios.length - 1;
  slider.setAttribute("aria-label", "Step");
  button.type = "button";
  button.textContent = "Play";
  button.addEventListener("click", () => { if (timer === null) { play(); } else { stop(); } });
  slider.addEventListener("input", () => { stop(); choose(Number(slider.value)); });
  radios.forEach(radio => radio.addEventListener("change", () => { stop(); show(); }));
  bar.classList.add("with-slider");
  bar.append(button, slider, told);
  show();
}
