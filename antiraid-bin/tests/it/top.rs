//! `antiraid top` in a terminal, as a person sees it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::antiraid::Antiraid;
use crate::processes::{Server, message, signal, until, with_echo};

const ROWS: u16 = 40;
const COLUMNS: u16 = 120;

/// What a terminal shows, as far as `top` makes use of it: the cursor is put somewhere, text is written, all is cleared.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// The beginning of a sequence whose end has not come.
    pending: Vec<u8>,
    is_alternate: bool,
}

impl Screen {
    fn new() -> Self {
        let cells = vec![vec![' '; COLUMNS.into()]; ROWS.into()];
        Self { cells, row: 0, column: 0, pending: Vec::new(), is_alternate: false }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.pending);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = std::str::from_utf8(&bytes[..whole]).unwrap();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
                let Some(end) = sequence.find(|c: char| ('@'..='~').contains(&c)) else { break };
                self.obey(&sequence[..end], &sequence[end..=end]);
                rest = &sequence[end + 1..];
                continue;
            }
            if c == '\u{1b}' && rest.len() < 2 {
                break;
            }
            rest = &rest[c.len_utf8()..];
            match c {
                '\r' => self.column = 0,
                '\n' => self.row += 1,
                c if c.is_control() => {}
                c => {
                    if let Some(cell) = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
                        *cell = c;
                    }
                    self.column += 1;
                }
            }
        }
        self.pending = [rest.as_bytes(), &bytes[whole..]].concat();
    }

    fn obey(&mut self, parameters: &str, what: &str) {
        match (parameters, what) {
            (position, "H") => {
                let mut numbers = position.split(';').map(|number| number.parse().unwrap_or(1));
                self.row = numbers.next().unwrap_or(1usize).saturating_sub(1);
                self.column = numbers.next().unwrap_or(1usize).saturating_sub(1);
            }
            ("2", "J") => self.cells.iter_mut().flatten().for_each(|cell| *cell = ' '),
            ("?1049", "h") => self.is_alternate = true,
            ("?1049", "l") => self.is_alternate = false,
            _ => {}
        }
    }

    fn text(&self) -> String {
        self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
    }
}

/// A terminal: the end that a person has, and what is on its screen.
fn terminal() -> (File, OwnedFd, Arc<Mutex<Screen>>) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    tcsetwinsize(&program, Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let screen = Arc::new(Mutex::new(Screen::new()));
    let (mut shown, on) = (File::from(person.try_clone().unwrap()), Arc::clone(&screen));
    #[expect(clippy::disallowed_methods, reason = "it is no worker")]
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // It fails when the program has closed its end.
        while let Ok(1..) = shown.read(&mut bytes).inspect(|len| on.lock().unwrap().feed(&bytes[..*len])) {}
    });
    (File::from(person), program.into(), screen)
}

#[test]
fn a_person_sees_workers_tenants_and_restarts_and_leaves() {
    let antiraid = with_echo();
    let server = Server::start(&antiraid, &["--topology", "process:2"]);
    let (mut person, program, screen) = terminal();
    let mut top = antiraid.command(["top", "--address", &server.address.to_string()]);
    let end = || Stdio::from(program.try_clone().unwrap());
    let mut top = top.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    drop(program);
    let shows = |what: &str| {
        until(what, || screen.lock().unwrap().text().contains(what).then_some(()));
    };
    shows("antiraid process:2");
    shows("┌ workers ");
    let pids: Vec<_> = server.pids().into_iter().flatten().collect();
    pids.iter().for_each(|pid| shows(&pid.to_string()));
    for _ in 0..20 {
        server.post(&message(1, "x"));
        server.post(&message(2, "x"));
    }
    shows("40 events");
    shows(&format!("guild:{}", 1u64 << 22));
    shows("┌ tenants by CPU time ");
    person.write_all(b"m").unwrap();
    shows("┌ tenants by memory ");
    signal(pids[0], rustix::process::Signal::KILL);
    shows("1 restarts");
    shows(&server.pid(0, Some(pids[0])).to_string());
    assert!(screen.lock().unwrap().is_alternate, "what was on the screen before is kept");
    println!("{}", screen.lock().unwrap().text());
    drop(server);
    shows("!!");
    person.write_all(b"q").unwrap();
    assert!(top.wait().unwrap().success());
    until("the screen that was there before", || (!screen.lock().unwrap().is_alternate).then_some(()));
}

#[test]
fn without_a_terminal_it_says_so() {
    let antiraid = Antiraid::new();
    let server = Server::start(&antiraid, &["--topology", "thread:1"]);
    let ran = antiraid.run(["top", "--address", &server.address.to_string()]);
    ran.with_status(2).says(&["terminal"]);
}
