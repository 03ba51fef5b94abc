"use strict";
// The page of `antiraid dev`: shows a simulated Discord, acts in it, and shows what templates do. No framework, nothing to
// build. Whatever comes from a template or a member is put in as text, never as markup.

const TOKEN_KEY = "antiraid-desk-token";
const MEMBERS_SHOWN = 200;
const MESSAGES_KEPT = 300;
const ENTRIES_KEPT = 500;
const ENTRIES_SHOWN = 200;
const ANSWER_MS_MAX = 3000;
const EARLY_KEPT = 100;

const $ = (id) => document.getElementById(id);

/** An element: h("b", { class: "x", onclick: f }, "text", otherElement). */
function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// ---- The token, which the printed address has after its #

if (location.hash.length > 1) {
  sessionStorage.setItem(TOKEN_KEY, location.hash.slice(1));
  history.replaceState(null, "", "/");
}
const token = sessionStorage.getItem(TOKEN_KEY) ?? "";

async function ask(method, path, body) {
  const headers = { "x-desk-token": token };
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  let data = null;
  try {
    data = text === "" ? null : JSON.parse(text);
  } catch {
    data = { message: text };
  }
  if (!answer.ok) throw new Refusal(answer.status, data);
  return data;
}

/** What Discord, or the desk, refuses with. */
class Refusal extends Error {
  constructor(status, data) {
    const details = [];
    const walk = (errors, path) => {
      for (const [key, below] of Object.entries(errors ?? {})) {
        if (key === "_errors") for (const one of below) details.push(`${path.join(".") || "form"}: ${one.message}`);
        else walk(below, [...path, key]);
      }
    };
    walk(data?.errors, []);
    super([`${status} ${data?.code ?? ""} ${data?.message ?? ""}`.replace(/ +/g, " ").trim(), ...details].join("\n"));
  }
}

/** A REST call as the member who is chosen. */
const act = (method, path, body) => ask(method, `/desk/as/${actor}${path}`, body);

// ---- What is known

let world = { bot: null, guilds: new Map() };
let guild = null;
let channel = null;
let actor = null;
let replyTo = null;
let chosenCommand = null;
const pending = new Map();
/** Answers that came before it was known to which question. */
const early = new Map();
const unread = new Set();
const panels = { results: [], log: [], calls: [], events: [] };
const runs = new Map();
let templates = { templates: [], mistakes: [], types: [] };
let use = new Map();

function userOf(id) {
  for (const one of world.guilds.values()) {
    const member = one.members.get(id);
    if (member) return member;
  }
  return world.gone?.get(id);
}

const nameOf = (member) => member?.nick ?? member?.user?.global_name ?? member?.user?.username ?? "somebody";
const time = (ms) => new Date(ms).toLocaleTimeString();
const created = (id) => Number(BigInt(id) >> 22n) + 1420070400000;

function take(state) {
  world.bot = state.bot;
  world.guilds = new Map();
  world.gone ??= new Map();
  for (const one of state.guilds) {
    one.members = new Map(one.members.map((member) => [member.user.id, member]));
    one.channels = new Map([...one.channels, ...one.threads].map((each) => [each.id, each]));
    one.messages = new Map(Object.entries(one.messages));
    one.notes = new Map();
    one.bans = new Set(one.bans);
    world.guilds.set(one.id, one);
  }
  templates = state.templates;
  showBot(state.connected);
  if (!world.guilds.has(guild?.id)) guild = [...world.guilds.values()][0];
  else guild = world.guilds.get(guild.id);
  chooseGuild(guild);
}

function chooseGuild(one) {
  guild = one;
  if (!guild.channels.has(channel)) channel = [...guild.channels.values()].find((each) => each.name === "general")?.id ?? [...guild.channels.keys()][0];
  if (!guild.members.has(actor)) actor = [...guild.members.values()].find((each) => each.user.username === "ada")?.user.id ?? [...guild.members.keys()][0];
  draw("guild", "channels", "messages", "members", "templates", "use");
}

// ---- What happens

const happenings = {
  MESSAGE_CREATE(one, data) {
    const messages = one.messages.get(data.channel_id) ?? [];
    messages.push(data);
    if (messages.length > MESSAGES_KEPT) messages.shift();
    one.messages.set(data.channel_id, messages);
    if (data.channel_id !== channel) unread.add(data.channel_id);
    draw("messages", "channels");
  },
  MESSAGE_UPDATE(one, data) {
    const messages = one.messages.get(data.channel_id) ?? [];
    const at = messages.findIndex((each) => each.id === data.id);
    if (at >= 0) messages[at] = { ...messages[at], ...data };
    draw("messages");
  },
  MESSAGE_DELETE: (one, data) => forget(one, data.channel_id, [data.id]),
  MESSAGE_DELETE_BULK: (one, data) => forget(one, data.channel_id, data.ids),
  MESSAGE_REACTION_ADD(one, data) {
    change(one, data, (message) => {
      message.reactions ??= [];
      let found = message.reactions.find((each) => each.emoji.name === data.emoji.name && each.emoji.id === data.emoji.id);
      if (!found) message.reactions.push((found = { emoji: data.emoji, count: 0, users: [] }));
      found.count += 1;
      (found.users ??= []).push(data.user_id);
    });
  },
  MESSAGE_REACTION_REMOVE(one, data) {
    change(one, data, (message) => {
      const found = message.reactions?.find((each) => each.emoji.name === data.emoji.name && each.emoji.id === data.emoji.id);
      if (found) {
        found.count -= 1;
        found.users = found.users?.filter((each) => each !== data.user_id);
      }
      message.reactions = message.reactions?.filter((each) => each.count > 0);
    });
  },
  MESSAGE_REACTION_REMOVE_ALL: (one, data) => change(one, data, (message) => (message.reactions = [])),
  MESSAGE_REACTION_REMOVE_EMOJI: (one, data) =>
    change(one, data, (message) => (message.reactions = message.reactions?.filter((each) => each.emoji.name !== data.emoji.name))),
  CHANNEL_CREATE: putChannel,
  CHANNEL_UPDATE: putChannel,
  CHANNEL_DELETE: removeChannel,
  THREAD_CREATE: putChannel,
  THREAD_UPDATE: putChannel,
  THREAD_DELETE: removeChannel,
  GUILD_MEMBER_ADD(one, data) {
    one.members.set(data.user.id, data);
    draw("members");
  },
  GUILD_MEMBER_UPDATE(one, data) {
    one.members.set(data.user.id, data);
    draw("members", "messages");
  },
  GUILD_MEMBER_REMOVE(one, data) {
    const gone = one.members.get(data.user.id);
    if (gone && world.gone.size < 5000) world.gone.set(data.user.id, gone);
    one.members.delete(data.user.id);
    if (actor === data.user.id) actor = [...one.members.keys()][0];
    draw("members");
  },
  GUILD_BAN_ADD(one, data) {
    one.bans.add(data.user.id);
    draw("members");
  },
  GUILD_BAN_REMOVE(one, data) {
    one.bans.delete(data.user.id);
    draw("members");
  },
  GUILD_ROLE_CREATE: putRole,
  GUILD_ROLE_UPDATE: putRole,
  GUILD_ROLE_DELETE(one, data) {
    one.roles = one.roles.filter((each) => each.id !== data.role_id);
    draw("members");
  },
  GUILD_UPDATE(one, data) {
    Object.assign(one, { name: data.name });
    draw("guild");
  },
  INTERACTION_ANSWER(one, data) {
    const waiting = pending.get(data.interaction_id);
    pending.delete(data.interaction_id);
    if (waiting) waiting(data);
    else early.set(data.interaction_id, data);
    if (early.size > EARLY_KEPT) early.delete(early.keys().next().value);
  },
};

function forget(one, id, ids) {
  one.messages.set(id, (one.messages.get(id) ?? []).filter((each) => !ids.includes(each.id)));
  draw("messages");
}

function change(one, data, f) {
  const message = one.messages.get(data.channel_id)?.find((each) => each.id === data.message_id);
  if (message) f(message);
  draw("messages");
}

function putChannel(one, data) {
  one.channels.set(data.id, data);
  draw("channels");
}

function removeChannel(one, data) {
  one.channels.delete(data.id);
  if (channel === data.id) chooseGuild(guild);
  draw("channels");
}

function putRole(one, data) {
  one.roles = [...one.roles.filter((each) => each.id !== data.role.id), data.role];
  draw("members");
}

function keep(panel, entry) {
  const entries = panels[panel];
  entries.push(entry);
  if (entries.length > ENTRIES_KEPT) entries.splice(0, entries.length - ENTRIES_KEPT);
  draw(panel);
}

const notices = {
  happening({ name, guild: of, data }) {
    const one = world.guilds.get(of);
    if (one) happenings[name]?.(one, data);
    keep("events", { at: Date.now(), name, guild: of, data });
  },
  result(data) {
    keep("results", data);
    const run = runs.get(data.template) ?? { runs: 0, failed: 0, micros: 0, last: null };
    run.runs += 1;
    run.micros += data.micros;
    if (data.error) run.failed += 1;
    run.last = data;
    runs.set(data.template, run);
    if (data.error) mark("results");
    draw("templates");
  },
  refused: (data) => keep("results", { ...data, template: "(engine)" }),
  log(data) {
    keep("log", data);
    if (data.kind === "error") mark("log");
  },
  call(data) {
    keep("calls", data);
    if (data.status >= 400) mark("calls");
    if (data.method !== "GET" && data.path.includes("/commands")) freshen();
  },
  templates(data) {
    templates = data;
    if (data.mistakes.length > 0) mark("templates");
    draw("templates");
  },
  types(data) {
    templates.types = data;
    draw("templates");
  },
  stats(data) {
    for (const one of data.tenants) {
      const before = use.get(one.tenant) ?? { cpu: one.cpu_micros, at: performance.now() - 500, history: [] };
      const now = performance.now();
      const share = Math.max(0, one.cpu_micros - before.cpu) / 10 / Math.max(1, now - before.at);
      use.set(one.tenant, { cpu: one.cpu_micros, memory: one.memory_bytes, at: now, share, history: [...before.history.slice(-59), share] });
    }
    draw("use");
  },
  raid(data) {
    say(`raid: ${data.state}, ${data.joins} joins`);
  },
  bot: (data) => showBot(data.connected),
  behind: () => start(),
};

let freshening = null;
/** Commands have no event of their own. */
function freshen() {
  clearTimeout(freshening);
  freshening = setTimeout(async () => {
    const state = await ask("GET", "/desk/state");
    for (const one of state.guilds) {
      const known = world.guilds.get(one.id);
      if (known) known.commands = one.commands;
    }
    // Somebody may be typing the name of a new one.
    listCommands();
  }, 50);
}

/** Whether the engine is at the gateway: what happens before is not told to templates. */
function showBot(connected) {
  document.documentElement.dataset.bot = connected > 0 ? "online" : "offline";
  say(connected > 0 ? "bot online" : "bot offline", connected === 0);
}

function say(text, bad) {
  $("status").textContent = text;
  $("status").toggleAttribute("data-bad", bad === true);
}

// ---- The connection

async function start() {
  take(await ask("GET", "/desk/state"));
}

async function listen() {
  for (;;) {
    try {
      const answer = await fetch("/desk/events", { headers: { "x-desk-token": token } });
      if (answer.status === 403) {
        say((await answer.text()).trim(), true);
        return;
      }
      await start();
      document.documentElement.dataset.ready = "yes";
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data:")) continue;
          const { kind, data } = JSON.parse(line.slice(5));
          notices[kind]?.(data);
        }
      }
    } catch (error) {
      console.error(error);
    }
    say("the connection is gone; trying again…", true);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

// ---- Drawing: what changed is drawn once a frame, however often it changed

const dirty = new Set();
function draw(...parts) {
  if (dirty.size === 0) requestAnimationFrame(drawNow);
  for (const part of parts) dirty.add(part);
}

function drawNow() {
  const parts = [...dirty];
  dirty.clear();
  if (!guild) return;
  for (const part of parts) drawers[part]();
}

const COLOURS = ["#3c6e71", "#7a4988", "#2e86ab", "#b3541e", "#4f772d", "#a4243b", "#5f5aa2", "#8a6d1b"];
function avatar(id, name) {
  return h("span", { class: "avatar", "aria-hidden": "true", style: { background: COLOURS[Number(BigInt(id) % 8n)] } }, [...name][0]?.toUpperCase() ?? "?");
}

const drawers = {
  guild() {
    $("guild").replaceChildren(...[...world.guilds.values()].map((one) => h("option", { value: one.id, selected: one === guild }, one.name)));
  },

  channels() {
    const all = [...guild.channels.values()];
    const byPlace = (a, b) => a.position - b.position;
    const label = (one) => (one.type === 2 || one.type === 13 ? "🔊 " : one.type === 5 ? "📢 " : one.parent_id && one.thread_metadata ? "↳ " : "# ") + one.name;
    const button = (one) =>
      h(
        "button",
        {
          type: "button",
          class: `${one.thread_metadata ? "thread" : ""} ${unread.has(one.id) ? "unread" : ""}`,
          "aria-current": one.id === channel ? "page" : undefined,
          onclick: () => {
            channel = one.id;
            unread.delete(one.id);
            draw("channels", "messages");
          },
        },
        label(one),
      );
    const withThreads = (one) => [button(one), ...all.filter((each) => each.thread_metadata && each.parent_id === one.id).map(button)];
    const plain = all.filter((one) => one.type !== 4 && !one.thread_metadata);
    const loose = plain.filter((one) => !one.parent_id).sort(byPlace).map(withThreads);
    const grouped = all.filter((one) => one.type === 4).sort(byPlace).map((category) => [
      h("h2", null, category.name),
      plain.filter((one) => one.parent_id === category.id).sort(byPlace).map(withThreads),
    ]);
    const had = document.activeElement?.closest("#channels") ? document.activeElement.textContent : null;
    $("channels").replaceChildren(...[...loose, ...grouped].flat(9));
    if (had) [...$("channels").querySelectorAll("button")].find((each) => each.textContent === had)?.focus();
  },

  messages() {
    const list = $("messages");
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    unread.delete(channel);
    $("channel-name").textContent = guild.channels.get(channel)?.name ?? "";
    const focused = document.activeElement?.closest?.("#messages") ? document.activeElement.dataset.key : null;
    const messages = (guild.messages.get(channel) ?? []).slice(-100);
    const notes = (guild.notes.get(channel) ?? []).slice(-20);
    const rows = [...messages.map((one) => [created(one.id), drawMessage(one)]), ...notes.map((one) => [one.at, h("li", { class: `note-line ${one.bad ? "bad" : ""}` }, one.text)])];
    rows.sort((a, b) => a[0] - b[0]);
    list.replaceChildren(...rows.map((row) => row[1]));
    if (isAtEnd) list.scrollTop = list.scrollHeight;
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  },

  members() {
    const all = [...guild.members.values()];
    const roles = [...guild.roles].sort((a, b) => b.position - a.position);
    const top = (member) => roles.find((role) => member.roles.includes(role.id));
    const groups = new Map();
    for (const member of all) {
      const name = member.user.bot ? "Bots" : member.user.id === guild.owner_id ? "Owner" : (top(member)?.name ?? "Members");
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(member);
    }
    let left = MEMBERS_SHOWN;
    const rows = [];
    for (const [name, members] of groups) {
      rows.push(h("li", null, h("h2", null, `${name} – ${members.length}`)));
      for (const member of members.slice(0, left)) rows.push(drawMember(member, top(member), roles));
      left = Math.max(0, left - members.length);
    }
    if (all.length > MEMBERS_SHOWN) rows.push(h("li", { class: "soft" }, `and more: ${all.length} in all`));
    for (const id of [...guild.bans].slice(0, 20)) {
      rows.push(h("li", { class: "member soft" }, h("span", { class: "who" }, `${nameOf(userOf(id))} (banned)`)));
    }
    if (guild.bans.size > 20) rows.push(h("li", { class: "soft" }, `${guild.bans.size} banned in all`));
    $("members").replaceChildren(...rows);
    const select = $("actor");
    if (document.activeElement !== select || !guild.members.has(select.value)) {
      const shown = all.filter((member) => !member.user.bot).slice(0, MEMBERS_SHOWN);
      const current = guild.members.get(actor);
      if (current && !shown.includes(current)) shown.push(current);
      select.replaceChildren(...shown.map((member) => h("option", { value: member.user.id, selected: member.user.id === actor }, nameOf(member))));
    }
    $("people").setAttribute("data-count", all.length);
  },

  use() {
    const one = use.get(guild.id);
    if (!one) {
      $("use").replaceChildren("no VM yet");
      return;
    }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 60 18");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const most = Math.max(5, ...one.history);
    line.setAttribute("points", one.history.map((share, x) => `${x},${17 - (16 * share) / most}`).join(" "));
    svg.append(line);
    $("use").replaceChildren(
      h("span", null, "CPU ", h("b", null, `${one.share.toFixed(1)} %`), ` ${(one.cpu / 1000).toFixed(0)} ms in all`),
      svg,
      h("span", null, "memory ", h("b", null, `${(one.memory / 1048576).toFixed(2)} MiB`)),
    );
  },

  templates() {
    const panel = $("panel-templates");
    const rows = templates.templates.map((one) => [one.name, one]);
    for (const name of runs.keys()) if (!templates.templates.some((one) => one.name === name)) rows.push([name, null]);
    const cells = rows.map(([name, one]) => {
      const run = runs.get(name);
      const last = run?.last;
      return h(
        "tr",
        { "data-template": name },
        h("td", { class: "nowrap" }, h("b", null, name), one?.paused ? " (paused)" : ""),
        h("td", null, one?.description ?? h("span", { class: "soft" }, "built in")),
        h("td", null, one?.events.join(", ") ?? ""),
        h("td", { class: "num" }, String(run?.runs ?? 0)),
        h("td", { class: `num ${run?.failed ? "bad" : ""}` }, String(run?.failed ?? 0)),
        h("td", { class: "num" }, run ? `${(run.micros / run.runs / 1000).toFixed(1)} ms` : ""),
        h("td", { class: `text ${last?.error ? "bad" : ""}` }, last ? `${last.event}: ${last.error ?? last.value}` : ""),
      );
    });
    panel.replaceChildren(
      ...(templates.mistakes.length > 0 ? [h("p", { class: "bad" }, "Not loaded; what ran before still runs:"), h("pre", { class: "mistakes", role: "alert" }, templates.mistakes.join("\n"))] : []),
      ...(templates.types?.length > 0 ? [h("pre", { class: "mistakes warn" }, templates.types.join("\n"))] : []),
      table(["template", "", "events", "#runs", "#failed", "#each", "last"], cells),
    );
  },

  results: () =>
    entries("results", ["at", "template", "event", "#time", "result"], (one) =>
      h(
        "tr",
        null,
        h("td", { class: "nowrap soft" }, time(one.at)),
        h("td", { class: "nowrap" }, one.template),
        h("td", { class: "nowrap" }, one.event),
        h("td", { class: "num" }, `${(one.micros / 1000).toFixed(1)} ms`),
        h("td", { class: `text ${one.error ? "bad" : ""}` }, one.error ?? one.value, one.traceback ? `\n${one.traceback}` : ""),
      ),
    ),
  log: () =>
    entries("log", ["at", "template", "event", "text"], (one) =>
      h(
        "tr",
        null,
        h("td", { class: "nowrap soft" }, time(one.at)),
        h("td", { class: "nowrap" }, one.template ?? ""),
        h("td", { class: "nowrap" }, one.event ?? ""),
        h("td", { class: `text ${one.kind === "error" ? "bad" : ""}` }, one.text),
      ),
    ),
  calls: () =>
    entries("calls", ["at", "call", "#status", "#time", "reason", "body"], (one) =>
      h(
        "tr",
        null,
        h("td", { class: "nowrap soft" }, time(one.at)),
        h("td", { class: "text" }, `${one.method} ${one.path.replace(/[A-Za-z0-9]{60,}/, "…")}`),
        h("td", { class: `num ${one.status >= 400 ? "bad" : "good"}` }, String(one.status)),
        h("td", { class: "num" }, `${(one.micros / 1000).toFixed(1)} ms`),
        h("td", null, one.reason ?? ""),
        h("td", null, one.body ? unfold(one.body) : ""),
      ),
    ),
  events: () =>
    entries("events", ["at", "event", "data"], (one) =>
      h("tr", null, h("td", { class: "nowrap soft" }, time(one.at)), h("td", { class: "nowrap" }, one.name), h("td", null, unfold(one.data))),
    ),
};

function unfold(data) {
  const text = JSON.stringify(data);
  const details = h("details", null, h("summary", null, text.length > 90 ? `${text.slice(0, 90)}…` : text));
  details.addEventListener("toggle", () => details.open && details.children.length === 1 && details.append(h("pre", null, JSON.stringify(data, null, 2))));
  return details;
}

function table(heads, rows) {
  const head = heads.map((text) => h("th", { class: text.startsWith("#") ? "num" : undefined }, text.replace(/^#/, "")));
  return h("table", null, h("thead", null, h("tr", null, head)), h("tbody", null, rows));
}

function entries(name, heads, row) {
  const panel = $(`panel-${name}`);
  if (panel.hidden) return;
  // Somebody reads further down: it is drawn when they come back.
  if (panel.scrollTop > 40 || panel.querySelector("details[open]")) return;
  panel.replaceChildren(panels[name].length === 0 ? h("p", { class: "soft" }, "nothing yet") : table(heads, panels[name].slice(-ENTRIES_SHOWN).reverse().map(row)));
}

function mark(name) {
  if ($(`panel-${name}`).hidden) $(`tab-${name}`).toggleAttribute("data-bad", true);
}

// ---- Messages

function formatted(text) {
  const parts = [];
  const pattern = /```(?:\w*\n)?([\s\S]+?)```|`([^`\n]+)`|\*\*([\s\S]+?)\*\*|\*([^*\n]+)\*|__([^_]+)__|~~([^~]+)~~|<@!?(\d+)>|<@&(\d+)>|<#(\d+)>|<t:(\d+)(?::\w)?>/g;
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [, block, code, bold, italic, under, struck, user, role, place, stamp] = match;
    if (block) parts.push(h("pre", null, block));
    else if (code) parts.push(h("code", null, code));
    else if (bold) parts.push(h("b", null, formatted(bold)));
    else if (italic) parts.push(h("i", null, formatted(italic)));
    else if (under) parts.push(h("u", null, formatted(under)));
    else if (struck) parts.push(h("s", null, formatted(struck)));
    else if (user) parts.push(h("span", { class: "mention" }, `@${nameOf(userOf(user))}`));
    else if (role) parts.push(h("span", { class: "mention" }, `@${guild.roles.find((one) => one.id === role)?.name ?? "role"}`));
    else if (place) parts.push(h("span", { class: "mention" }, `#${guild.channels.get(place)?.name ?? "channel"}`));
    else parts.push(h("time", null, new Date(Number(stamp) * 1000).toLocaleString()));
  }
  parts.push(text.slice(at));
  return parts;
}

function drawMessage(message) {
  const author = message.author ?? { id: "1", username: "?" };
  const member = guild.members.get(author.id);
  const name = message.webhook_id ? author.username : nameOf(member ?? { user: author });
  const tool = (label, key, f) => h("button", { type: "button", title: label, "aria-label": label, "data-key": `${message.id}-${key}`, onclick: () => tried(f) }, key);
  const isLoading = (message.flags & 128) !== 0;
  const answered = message.referenced_message;
  return h(
    "li",
    { class: `message ${message.visible_to ? "ephemeral" : ""}`, "data-id": message.id, "data-author": author.username },
    avatar(author.id, name),
    h(
      "div",
      { class: "head" },
      h("span", { class: "name" }, name),
      author.bot || message.webhook_id ? h("span", { class: "tag" }, message.webhook_id ? "WEBHOOK" : "BOT") : null,
      h("time", { datetime: message.timestamp }, time(created(message.id))),
      message.edited_timestamp ? h("span", { class: "note" }, "(edited)") : null,
      message.interaction_metadata?.name ? h("span", { class: "note" }, `/${message.interaction_metadata.name} by ${message.interaction_metadata.user?.username}`) : null,
      message.visible_to ? h("span", { class: "note" }, `only ${nameOf(userOf(message.visible_to))} sees this`) : null,
      message.pinned ? h("span", { class: "note" }, "pinned") : null,
    ),
    h(
      "div",
      { class: "tools" },
      tool("React with a thumb", "👍", () => act("PUT", `/channels/${message.channel_id}/messages/${message.id}/reactions/${encodeURIComponent("👍")}/@me`)),
      tool("Answer", "↩", () => setReply(message)),
      tool("Delete", "✕", () => act("DELETE", `/channels/${message.channel_id}/messages/${message.id}`)),
    ),
    h(
      "div",
      { class: "body" },
      answered ? h("div", { class: "note" }, `↩ ${answered.author?.username ?? ""}: ${answered.content.slice(0, 80)}`) : null,
      isLoading ? h("span", { class: "soft" }, "is thinking…") : message.content ? h("div", { class: "content" }, formatted(message.content)) : null,
      message.embeds.map(drawEmbed),
      message.poll ? h("div", { class: "embed" }, h("h3", null, message.poll.question.text), message.poll.answers.map((one) => h("div", null, `○ ${one.poll_media.text}`))) : null,
      message.components.map((one) => drawComponent(message, one)),
      message.reactions?.length ? h("div", { class: "reactions" }, message.reactions.map((one) => drawReaction(message, one))) : null,
    ),
  );
}

function drawReaction(message, reaction) {
  const mine = reaction.users?.includes(actor) ?? false;
  const emoji = reaction.emoji.id ? `${reaction.emoji.name}:${reaction.emoji.id}` : reaction.emoji.name;
  const path = `/channels/${message.channel_id}/messages/${message.id}/reactions/${encodeURIComponent(emoji)}/@me`;
  return h("button", { type: "button", "aria-pressed": String(mine), "data-key": `${message.id}-${emoji}`, onclick: () => tried(() => act(mine ? "DELETE" : "PUT", path)) }, `${reaction.emoji.name} ${reaction.count}`);
}

function drawEmbed(embed) {
  const colour = embed.color ? `#${embed.color.toString(16).padStart(6, "0")}` : null;
  return h(
    "div",
    { class: "embed", style: colour ? { borderLeftColor: colour } : {} },
    embed.author ? h("div", { class: "note" }, embed.author.name) : null,
    embed.title ? h("h3", null, embed.url ? h("a", { href: embed.url, rel: "noreferrer", target: "_blank" }, embed.title) : formatted(embed.title)) : null,
    embed.description ? h("div", null, formatted(embed.description)) : null,
    embed.fields?.length ? h("div", { class: "fields" }, embed.fields.map((one) => h("div", { class: `field ${one.inline ? "inline" : ""}` }, h("b", null, formatted(one.name)), formatted(one.value)))) : null,
    embed.image ? h("div", { class: "soft" }, `[picture ${embed.image.url}]`) : null,
    embed.footer || embed.timestamp ? h("footer", null, [embed.footer?.text, embed.timestamp && new Date(embed.timestamp).toLocaleString()].filter(Boolean).join(" · ")) : null,
  );
}

function drawComponent(message, one) {
  const press = (values) => interact(message.channel_id, { ask: "component", message: message.id, custom_id: one.custom_id, values });
  const key = `${message.id}-${one.custom_id}`;
  switch (one.type) {
    case 1:
      return h("div", { class: "components" }, (one.components ?? []).map((each) => drawComponent(message, each)));
    case 2:
      if (one.style === 5) return h("a", { href: one.url, rel: "noreferrer", target: "_blank" }, one.label ?? one.url);
      return h("button", { type: "button", class: `b${one.style}`, disabled: one.disabled, "data-key": key, "data-custom-id": one.custom_id, onclick: () => press([]) }, [one.emoji?.name, one.label].filter(Boolean).join(" "));
    case 3:
    case 5:
    case 6:
    case 7:
    case 8: {
      const isMany = (one.max_values ?? 1) > 1;
      const people = [...guild.members.values()].slice(0, MEMBERS_SHOWN).map((each) => [each.user.id, nameOf(each)]);
      const roles = guild.roles.map((each) => [each.id, `@${each.name}`]);
      const choices = {
        3: () => (one.options ?? []).map((each) => [each.value, each.label, each.description, each.default]),
        5: () => people,
        6: () => roles,
        7: () => [...people, ...roles],
        8: () => [...guild.channels.values()].map((each) => [each.id, `#${each.name}`]),
      }[one.type]();
      const select = h(
        "select",
        { multiple: isMany, disabled: one.disabled, "data-key": key, "data-custom-id": one.custom_id, "aria-label": one.placeholder ?? "choose" },
        isMany ? [] : h("option", { value: "", selected: true }, one.placeholder ?? "choose…"),
        choices.map(([value, label, description, isDefault]) => h("option", { value, title: description, selected: isMany && isDefault }, label)),
      );
      const values = () => [...select.selectedOptions].map((each) => each.value).filter((value) => value !== "");
      if (!isMany) select.addEventListener("change", () => values().length && press(values()));
      return h("span", { class: "row" }, select, isMany ? h("button", { type: "button", onclick: () => press(values()) }, "Choose") : null);
    }
    case 9:
      return h("div", { class: "row" }, h("div", null, (one.components ?? []).map((each) => drawComponent(message, each))), one.accessory ? drawComponent(message, one.accessory) : null);
    case 10:
      return h("div", { class: "content" }, formatted(one.content ?? ""));
    case 14:
      return h("hr");
    case 17:
      return h("div", { class: "embed" }, (one.components ?? []).map((each) => drawComponent(message, each)));
    default:
      return h("div", { class: "soft" }, `[component of type ${one.type}]`);
  }
}

function note(text, bad) {
  const notes = guild.notes.get(channel) ?? [];
  notes.push({ at: Date.now(), text, bad });
  guild.notes.set(channel, notes.slice(-20));
  draw("messages");
}

/** Runs what may be refused, and shows the refusal. */
async function tried(f) {
  const place = $("composer-error");
  try {
    place.hidden = true;
    return await f();
  } catch (error) {
    place.textContent = error.message;
    place.hidden = false;
    return undefined;
  }
}

// ---- Asking the bot

/** Asks, and waits for the bot's first answer, as long as Discord does. */
async function interact(where, body) {
  return tried(async () => {
    const { interaction_id: id } = await ask("POST", "/desk/ask", { user: actor, channel: where, ...body });
    const answer = early.get(id) ?? await new Promise((resolve) => {
      const timer = setTimeout(() => {
        pending.delete(id);
        resolve(null);
      }, ANSWER_MS_MAX + 200);
      pending.set(id, (data) => {
        clearTimeout(timer);
        resolve(data);
      });
    });
    if (!answer && body.ask !== "autocomplete") note("The application did not respond.", true);
    if (answer?.type === 9) showModal(where, id, answer.data);
    return answer;
  });
}

function showModal(where, interaction, data) {
  const inputs = [];
  const rows = [];
  const walk = (list, label) => {
    for (const one of list ?? []) {
      if (one.type === 4) {
        const tag = one.style === 2 ? "textarea" : "input";
        const input = h(tag, { maxlength: one.max_length ?? 4000, minlength: one.min_length, required: one.required !== false, placeholder: one.placeholder, "data-custom-id": one.custom_id });
        input.value = one.value ?? "";
        inputs.push([one.custom_id, input]);
        rows.push(h("label", null, one.label ?? label ?? one.custom_id, input));
      }
      walk(one.components, one.label);
      if (one.component) walk([one.component], one.label);
    }
  };
  walk(data.components);
  const form = $("modal-form");
  form.replaceChildren(
    h("h2", { id: "modal-title" }, data.title),
    ...rows,
    h("div", { class: "row" }, h("button", { value: "send" }, "Submit"), h("button", { value: "cancel", formnovalidate: true }, "Cancel")),
  );
  const dialog = $("modal");
  dialog.onclose = () => {
    if (dialog.returnValue === "send") interact(where, { ask: "modal", interaction, texts: inputs.map(([name, input]) => [name, input.value]) });
  };
  dialog.returnValue = "";
  dialog.showModal();
}

// ---- The message box, and commands in it

let listed = [];
let selected = 0;

function commandEntries(text) {
  const found = [];
  const walk = (command, name, options, path) => {
    const below = (options ?? []).filter((one) => one.type <= 2);
    if (below.length === 0) found.push({ command, name, path, options: options ?? [], description: path.at(-1)?.description ?? command.description });
    for (const one of below) walk(command, `${name} ${one.name}`, one.options, [...path, one]);
  };
  for (const command of guild.commands.filter((one) => one.type === 1)) walk(command, command.name, command.options, []);
  return found.filter((one) => one.name.startsWith(text)).slice(0, 25);
}

function listCommands() {
  const text = $("composer-text").value;
  listed = text.startsWith("/") && !chosenCommand ? commandEntries(text.slice(1).trimEnd()) : [];
  selected = Math.min(selected, Math.max(0, listed.length - 1));
  const isEmpty = text.startsWith("/") && !chosenCommand && listed.length === 0;
  $("command-list").hidden = listed.length === 0 && !isEmpty;
  $("command-list").replaceChildren(
    ...listed.map((one, at) => h("li", { role: "option", "aria-selected": String(at === selected), onclick: () => chooseCommand(one) }, h("b", null, `/${one.name}`), ` – ${one.description}`)),
    ...(isEmpty ? [h("li", { class: "soft" }, "no command of this name is registered in this guild")] : []),
  );
}

function chooseCommand(entry) {
  chosenCommand = entry;
  $("composer-text").value = `/${entry.name}`;
  $("composer-text").readOnly = true;
  $("command-list").hidden = true;
  const fields = entry.options.map((option) => [option, optionField(entry, option)]);
  entry.fields = fields;
  $("command-form").replaceChildren(...fields.map(([option, field]) => h("label", null, `${option.name}${option.required ? " *" : ""}`, field)));
  $("command-form").hidden = fields.length === 0;
  (fields[0]?.[1] ?? $("composer-text")).focus();
}

function leaveCommand() {
  chosenCommand = null;
  $("composer-text").readOnly = false;
  $("composer-text").value = "";
  $("command-form").hidden = true;
  $("command-form").replaceChildren();
  $("command-list").hidden = true;
}

function optionField(entry, option) {
  const select = (choices) =>
    h("select", { required: option.required, title: option.description, "data-option": option.name }, h("option", { value: "" }, option.description), choices.map(([value, label]) => h("option", { value }, label)));
  if (option.choices?.length) return select(option.choices.map((one) => [String(one.value), one.name]));
  if (option.type === 5) return select([["true", "true"], ["false", "false"]]);
  const people = () => [...guild.members.values()].slice(0, MEMBERS_SHOWN).map((one) => [one.user.id, nameOf(one)]);
  const roles = () => guild.roles.map((one) => [one.id, `@${one.name}`]);
  if (option.type === 6) return select(people());
  if (option.type === 7) return select([...guild.channels.values()].map((one) => [one.id, `#${one.name}`]));
  if (option.type === 8) return select(roles());
  if (option.type === 9) return select([...people(), ...roles()]);
  const isNumber = option.type === 4 || option.type === 10;
  const input = h("input", {
    required: option.required,
    placeholder: option.description,
    title: option.description,
    "data-option": option.name,
    inputmode: isNumber ? "decimal" : undefined,
    maxlength: option.max_length,
    minlength: option.min_length,
  });
  if (option.autocomplete) {
    const list = h("datalist", { id: `choices-${option.name}` });
    input.setAttribute("list", list.id);
    document.getElementById(list.id)?.remove();
    document.body.append(list);
    let timer = null;
    let last = 0;
    const complete = async () => {
      const turn = ++last;
      const answer = await interact(channel, { ask: "autocomplete", command: entry.command.id, options: withPath(entry, given(entry, option)) });
      // An older answer must not replace a newer one.
      if (turn !== last || answer?.type !== 8) return;
      entry.choices ??= {};
      entry.choices[option.name] = answer.data.choices;
      list.replaceChildren(...answer.data.choices.map((one) => h("option", { value: one.name })));
    };
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(complete, 150);
    });
    input.addEventListener("focus", complete, { once: true });
  }
  return input;
}

function given(entry, focused) {
  const options = [];
  for (const [option, field] of entry.fields) {
    const isFocused = option === focused;
    if (field.value === "" && !isFocused) continue;
    let value = field.value;
    const choice = entry.choices?.[option.name]?.find((one) => one.name === value);
    if (choice && !focused) value = choice.value;
    else if (option.type === 5) value = value === "true";
    else if ((option.type === 4 || option.type === 10) && !isFocused) value = Number(value);
    options.push(isFocused ? { name: option.name, type: option.type, value, focused: true } : { name: option.name, type: option.type, value });
  }
  return options;
}

/** Options of a sub-command stand within it. */
const withPath = (entry, options) => entry.path.reduceRight((below, one) => [{ name: one.name, type: one.type, options: below }], options);

function setReply(message) {
  replyTo = message;
  $("reply-to").hidden = !message;
  $("reply-to").replaceChildren(...(message ? [`↩ ${message.author.username} `, h("button", { type: "button", "aria-label": "Do not answer", onclick: () => setReply(null) }, "✕")] : []));
  $("composer-text").focus();
}

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("composer-text").value;
  if (!chosenCommand && text.startsWith("/") && listed[selected]) {
    chooseCommand(listed[selected]);
    if (chosenCommand.options.length > 0) return;
  }
  if (chosenCommand) {
    const entry = chosenCommand;
    const options = withPath(entry, given(entry));
    leaveCommand();
    $("composer-text").focus();
    await interact(channel, { ask: "command", command: entry.command.id, options });
    return;
  }
  if (text.trim() === "") return;
  $("composer-text").value = "";
  const reference = replyTo ? { message_reference: { message_id: replyTo.id } } : {};
  const where = channel;
  const sent = await tried(() => act("POST", `/channels/${where}/messages`, { content: text, ...reference }));
  if (sent) setReply(null);
  else if ($("composer-text").value === "") $("composer-text").value = text;
});

$("composer-text").addEventListener("input", listCommands);
$("composer").addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    leaveCommand();
    setReply(null);
  } else if (event.target.id === "composer-text" && event.key === "Backspace" && chosenCommand) {
    leaveCommand();
  } else if (listed.length > 0 && !$("command-list").hidden && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    selected = (selected + (event.key === "ArrowDown" ? 1 : listed.length - 1)) % listed.length;
    listCommands();
  } else if (listed.length > 0 && event.key === "Tab" && !$("command-list").hidden) {
    event.preventDefault();
    chooseCommand(listed[selected]);
  }
});

// ---- Members

function drawMember(member, role, roles) {
  const id = member.user.id;
  const until = member.communication_disabled_until ? new Date(member.communication_disabled_until) : null;
  const marks = [until && until > new Date() ? "timed out" : null, ...roles.filter((one) => member.roles.includes(one.id)).map((one) => one.name)].filter(Boolean);
  const isBot = id === world.bot;
  return h(
    "li",
    { class: "member", "data-user": id, title: `${member.user.username}, ${id}` },
    h("span", { class: "dot", style: role?.color ? { background: `#${role.color.toString(16).padStart(6, "0")}` } : {} }),
    h("span", { class: "who" }, nameOf(member), " ", h("small", null, marks.join(", "))),
    isBot || member.user.bot
      ? null
      : [
          h("button", { type: "button", onclick: () => { actor = id; draw("members", "messages"); }, "aria-label": `Act as ${nameOf(member)}` }, "be"),
          h("button", { type: "button", onclick: () => tried(() => ask("DELETE", `/desk/members/${guild.id}/${id}`)), "aria-label": `${nameOf(member)} leaves` }, "leave"),
        ],
  );
}

$("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("join-name").value;
  $("join-name").value = "";
  await tried(() => ask("POST", "/desk/members", { guild: guild.id, name: name || `newcomer ${Math.floor(Math.random() * 1000)}` }));
});
$("actor").addEventListener("change", () => {
  actor = $("actor").value;
  draw("messages", "members");
});
$("guild").addEventListener("change", () => chooseGuild(world.guilds.get($("guild").value)));

// ---- Raids and trouble

$("raid-open").addEventListener("click", () => $("raid").showModal());
$("raid").addEventListener("close", () => {
  const how = $("raid").returnValue;
  if (how === "stop") tried(() => ask("DELETE", "/desk/raid"));
  if (how !== "start") return;
  const message = $("raid-message").value;
  const body = { guild: guild.id, joins: Number($("raid-joins").value), per_second: Number($("raid-rate").value) };
  tried(() => ask("POST", "/desk/raid", message ? { ...body, message, channel } : body));
});

for (const [label, fault] of [
  ["Drop all gateway connections", { fault: "drop", code: 4000 }],
  ["Ask clients to reconnect", { fault: "reconnect" }],
  ["Invalidate sessions", { fault: "invalidate_sessions", resumable: false }],
  ["Next 5 REST calls: 503", { fault: "rest_status", status: 503, count: 5 }],
  ["Next 5 REST calls: 429", { fault: "rate_limit", count: 5, retry_after_ms: 1000 }],
  ["Next 5 REST calls: 429, global", { fault: "rate_limit", count: 5, retry_after_ms: 1000, global: true }],
  ["REST is 2 s late", { fault: "rest_delay", millis: 2000 }],
  ["REST is in time again", { fault: "rest_delay", millis: 0 }],
  ["Revoke the bot's token", { fault: "revoke_token" }],
]) {
  $("panel-trouble").append(h("button", { type: "button", onclick: () => tried(() => ask("POST", "/desk/fault", fault)).then(() => say(label)) }, label));
}

// ---- Tabs and looks

function chooseTab(tab) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const isChosen = one === tab;
    one.setAttribute("aria-selected", String(isChosen));
    one.tabIndex = isChosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !isChosen;
  }
  tab.removeAttribute("data-bad");
  const name = tab.id.slice(4);
  if (drawers[name]) draw(name);
}

$("tabs").addEventListener("click", (event) => event.target.role === "tab" && chooseTab(event.target));
$("tabs").addEventListener("keydown", (event) => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.target.role !== "tab") return;
  const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
  chooseTab(next);
  next.focus();
});
$("clear").addEventListener("click", () => {
  for (const [name, list] of Object.entries(panels)) {
    if ($(`panel-${name}`).hidden) continue;
    list.length = 0;
    $(`panel-${name}`).replaceChildren();
    draw(name);
  }
});
const THEMES = ["", "light", "dark"];
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" }[theme];
  localStorage.setItem("antiraid-desk-theme", theme);
}
setTheme(localStorage.getItem("antiraid-desk-theme") ?? "");
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3]));

listen();
