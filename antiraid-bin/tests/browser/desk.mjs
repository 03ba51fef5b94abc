// Drives the page of `antiraid dev` in a real browser. Started by tests/it/browser.rs:
//   node desk.mjs <playwright-core> <chromium> <address of the page> <init.luau of the template>
// Prints a line for each thing that it saw, and ends with status 1 at the first that it did not see.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [playwright, executablePath, address, template] = process.argv.slice(2);
const { chromium } = createRequire(join(playwright, "package.json"))(playwright);

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ colorScheme: "dark" });
const page = await context.newPage();
page.setDefaultTimeout(60_000);
const complaints = [];
page.on("pageerror", (error) => complaints.push(`error: ${error.stack ?? error}`));
page.on("console", (message) => message.type() === "error" && complaints.push(`console: ${message.text()}`));

const saw = (what) => console.log(`saw ${what}`);
function check(holds, what) {
  if (!holds) throw new Error(`${what} is not so`);
  saw(what);
}

const composer = page.locator("#composer-text");
const say = async (text) => {
  await composer.fill(text);
  await composer.press("Enter");
};
const message = (author, text) => page.locator(`.message[data-author="${author}"]`, { hasText: text });
const count = async () => Number(await page.locator("#people").getAttribute("data-count"));

try {
  const begun = performance.now();
  await page.goto(address);
  await page.locator("html[data-ready=yes]").waitFor({ state: "attached" });
  saw(`the page, ${Math.round(performance.now() - begun)} ms after it was asked for`);
  await page.locator("html[data-bot=online]").waitFor({ state: "attached" });
  await page.locator("#panel-templates tr[data-template=desk]").waitFor();
  check(!page.url().includes("#"), "that the token is out of the address");
  check((await page.locator("#members .member").count()) === 7, "seven members");

  // A message, and what the template answers.
  await say("hello <b>there</b>");
  await message("ada", "hello <b>there</b>").waitFor();
  await message("antiraid", "first: hello <b>there</b>").waitFor();
  check((await page.locator("#messages .content b").count()) === 0, "that markup in a message stays text");
  await page.locator("#panel-templates tr[data-template=desk] .num", { hasText: "1" }).first().waitFor();
  await page.locator("#use b").first().waitFor();
  saw("the answer to a message, and what the template uses");

  // A command of the built-in template.
  await composer.fill("/pin");
  await page.locator("#command-list li", { hasText: "/ping" }).waitFor();
  await page.keyboard.press("Enter");
  await message("antiraid", "Pong!").waitFor();
  saw("the answer of the built-in template");

  // A slash command with a completed option, by the keyboard alone.
  await say("!setup");
  await message("antiraid", "the command is there").waitFor();
  await composer.focus();
  await page.keyboard.type("/ec");
  await page.locator("#command-list li", { hasText: "/echo" }).waitFor();
  await page.keyboard.press("Tab");
  const option = page.locator("#command-form input[data-option=text]");
  await option.waitFor();
  await page.keyboard.type("gr");
  await page.locator("#choices-text option[value='greetings']").waitFor({ state: "attached" });
  saw("a completed option");
  await option.fill("greetings");
  await page.keyboard.press("Enter");
  await message("antiraid", "echo: good day").waitFor();
  check((await page.locator(".message.ephemeral").count()) === 2, "an answer that one user alone sees");

  // A button, a menu, and a modal.
  await say("!buttons");
  await page.locator("button[data-custom-id=go]").click();
  await message("antiraid", "pressed by Ada").waitFor();
  await page.locator("select[data-custom-id=menu]").selectOption("b");
  await message("antiraid", "chosen: b").waitFor();
  await page.locator("button[data-custom-id=why]").click();
  await page.locator("#modal input[data-custom-id=reason]").fill("because");
  await page.locator("#modal button[value=send]").click();
  await message("antiraid", "why: because").waitFor();
  saw("a button, a menu and a modal");

  // Somebody comes and goes; another one speaks.
  await page.locator("#join-name").fill("Grace");
  await page.locator("#join-name").press("Enter");
  const grace = page.locator("#members .member", { hasText: "Grace" });
  await grace.waitFor();
  await page.locator("#actor").selectOption({ label: "Grace" });
  await say("I am new");
  await message("grace", "I am new").waitFor();
  await grace.hover();
  await grace.getByRole("button", { name: "leaves" }).click();
  await grace.waitFor({ state: "detached" });
  saw("a member who came, spoke and left");
  await page.locator("#actor").selectOption({ label: "Ada" });

  // A raid.
  const before = await count();
  await page.locator("#raid-open").click();
  await page.locator("#raid-joins").fill("50");
  await page.locator("#raid-rate").fill("200");
  await page.locator("#raid button[value=start]").click();
  await page.waitForFunction((wanted) => Number(document.querySelector("#people").dataset.count) === wanted, before + 50);
  await message("antiraid", "50 have joined").waitFor();
  saw("a raid of 50");

  // A template that is saved is live.
  const source = readFileSync(template, "utf8");
  writeFileSync(template, source.replace('"first: "', '"second: "'));
  const answered = page.locator(".message[data-author=antiraid]", { hasText: "second: " });
  // The first one may still meet the old template.
  for (let attempt = 0; (await answered.count()) === 0; attempt += 1) {
    check(attempt < 100, "that the saved template answers in time");
    await say(`again ${attempt}`);
    await message("antiraid", `: again ${attempt}`).waitFor();
  }
  saw("the new behaviour of a saved template");
  writeFileSync(template, "local = 1");
  await page.locator("#panel-templates .mistakes:not(.warn)", { hasText: "init.luau:1" }).waitFor();
  saw("a mistake with its line");

  // The panels, by the keyboard.
  await page.locator("#tab-templates").focus();
  for (const [name, text] of [
    ["results", "MESSAGE"],
    ["log", "setting up"],
    ["calls", "POST /channels/"],
    ["events", "MESSAGE_CREATE"],
  ]) {
    await page.keyboard.press("ArrowRight");
    await page.locator(`#panel-${name} td`, { hasText: text }).first().waitFor();
  }
  saw("results, log, calls and events");

  // What Discord refuses is shown, and the text is not lost.
  await page.locator("#actor").selectOption({ label: "Bo" });
  const own = page.locator(".message[data-author=ada]").last();
  await own.hover();
  await own.getByRole("button", { name: "Delete" }).click();
  await page.locator("#composer-error", { hasText: "50013 Missing Permissions" }).waitFor();
  saw("a refusal of Discord's");

  // Dark and light differ, and nothing went wrong on the way.
  const colour = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await colour();
  await page.emulateMedia({ colorScheme: "light" });
  check(dark !== (await colour()), "that dark and light differ");
  const expected = complaints.filter((text) => !text.includes("status of 403"));
  check(expected.length === 0, `that the browser has nothing to complain about ${expected.join("; ")}`);

  // Without the token there is nothing to see.
  const stranger = await (await browser.newContext()).newPage();
  await stranger.goto(address.split("#")[0]);
  await stranger.locator("#status[data-bad]", { hasText: "antiraid dev" }).waitFor();
  check((await stranger.locator(".message").count()) === 0, "nothing without the token");
} catch (error) {
  console.log(`not seen: ${error.message}`);
  console.log((await page.locator("body").innerText().catch(() => "")).slice(0, 4_000));
  console.log(complaints.join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
