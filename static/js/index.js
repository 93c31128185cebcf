"use strict";

const HEALTH_EVERY_MS = 10_000;

const element = (id) => document.getElementById(id);
const form = element("run-form");

const KEY = "code-executor-key";
const keyField = element("key");

/** Headers of a call; with the key, where the service asks for one. */
function headers() {
  const key = keyField?.value.trim();
  return { Accept: "application/json", ...(key ? { Authorization: `Api-Key ${key}` } : {}) };
}

async function getJson(address) {
  const response = await fetch(address, { headers: headers() });
  const answer = await response.json();
  if (response.status === 401 || response.status === 403) {
    throw new Error(answer.detail);
  }
  return answer;
}

async function showHealth() {
  let health;
  try {
    health = await getJson(form.dataset.health);
  } catch {
    health = { status: "unhealthy", checks: { API: "does not answer" } };
  }
  element("health").className = `health ${health.status}`;
  element("health-status").textContent = health.status;
  element("health-checks").replaceChildren(...Object.entries(health.checks ?? {}).flatMap(checkRow));
}

function checkRow([part, state]) {
  const name = document.createElement("dt");
  const text = document.createElement("dd");
  name.textContent = part;
  text.textContent = state;
  return [name, text];
}

async function showEnvironments() {
  const names = await getJson(form.dataset.environments);
  const select = element("environment");
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes("python")) {
    select.value = "python";
  }
  select.disabled = names.length === 0;
  element("run").disabled = select.disabled;
  if (names.length > 0) {
    await offerExample();
  }
}

/** What was written in each language, by the extension of its files. */
const drafts = {};
let language = null;

/** Shows the draft of the chosen environment's language, and keeps that of the one before. Until
 * then nothing can be run: the program must be of the environment that it is sent to. */
async function offerExample() {
  const code = element("code");
  const name = element("environment").value;
  element("run").disabled = true;
  try {
    const environment = await getJson(`${form.dataset.environments}/${encodeURIComponent(name)}`);
    if (element("environment").value !== name || environment.file_extension === language) {
      return;
    }
    if (code.value !== "") {
      drafts[language ?? environment.file_extension] = code.value;
    }
    language = environment.file_extension;
    code.value = drafts[language] ?? environment.sample;
  } finally {
    element("run").disabled = false;
  }
}

async function run(event) {
  event.preventDefault();
  if (element("run").disabled) {
    return;
  }
  const button = element("run");
  button.disabled = true;
  button.textContent = "Running…";
  try {
    await execute();
  } catch {
    showProblem("The service does not answer.");
  } finally {
    button.disabled = false;
    button.textContent = "Run";
  }
}

async function execute() {
  const response = await fetch(form.dataset.execute, {
    method: "POST",
    headers: { ...headers(), "Content-Type": "application/json" },
    body: JSON.stringify({
      environment: element("environment").value,
      code: element("code").value,
      stdin: element("stdin").value,
    }),
  });
  const answer = await response.json();
  if (response.ok) {
    showResult(answer);
  } else {
    showProblem(answer.detail);
  }
}

function showResult(answer) {
  const figures = answer.exit_code === null ? [] : [`exit code ${answer.exit_code}`];
  if (answer.execution_time !== null) {
    const ms = answer.execution_time * 1000;
    figures.push(ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
  }
  if (answer.memory_peak) {
    figures.push(`${(answer.memory_peak / 2 ** 20).toFixed(1)} MiB`);
  }
  show(answer.verdict, figures.join(" · "), answer.error ?? "");
  showOutput("stdout", answer.stdout, answer.stdout_truncated);
  showOutput("stderr", answer.stderr, answer.stderr_truncated);
}

function showProblem(detail) {
  show("", "", detail);
  showOutput("stdout", "", false);
  showOutput("stderr", "", false);
}

function show(verdict, figures, problem) {
  element("verdict").textContent = (verdict ?? "").replaceAll("_", " ");
  element("verdict").className = `verdict ${verdict ?? ""}`;
  element("figures").textContent = figures;
  element("ending").hidden = verdict === "";
  element("problem").textContent = problem;
  element("problem").hidden = problem === "";
  element("result").hidden = false;
}

function showOutput(name, text, truncated) {
  element(`${name}-part`).hidden = text === "";
  element(name).textContent = truncated ? `${text}\n… cut off at the output limit` : text;
}

form.addEventListener("submit", run);
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !element("run").disabled) {
    form.requestSubmit();
  }
});
element("environment").addEventListener("change", () => {
  offerExample().catch(() => showProblem("The environment can't be read."));
});
showHealth();
setInterval(showHealth, HEALTH_EVERY_MS);

async function begin() {
  if (keyField && keyField.value.trim() === "") {
    return;
  }
  try {
    await showEnvironments();
  } catch (error) {
    showProblem(keyField ? error.message : "The environments can't be read.");
  }
}

if (keyField) {
  keyField.value = sessionStorage.getItem(KEY) ?? "";
  keyField.addEventListener("change", () => {
    sessionStorage.setItem(KEY, keyField.value.trim());
    element("result").hidden = true;
    begin();
  });
}
begin();
