//! Standard output, which its reader may close at any time (`antiraid … | head`). That is no error: nobody wants more.

use std::io::{self, ErrorKind, StdoutLock, Write};

/// Where results go.
pub struct Output<W: Write = StdoutLock<'static>> {
    to: io::BufWriter<W>,
    closed: bool,
}

impl Output {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::new(io::stdout().lock())
    }
}

impl<W: Write> Output<W> {
    /// Output to any writer.
    pub fn new(to: W) -> Self {
        Self { to: io::BufWriter::new(to), closed: false }
    }

    /// Writes the text and a line break.
    pub fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        let written = writeln!(self.to, "{text}");
        self.forgive(written)
    }

    /// Writes the value as one line of JSON.
    pub fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        // Whole before the first byte goes out: a value that fails half-way must not leave half a line.
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        let written = self.to.write_all(&line);
        self.forgive(written)
    }

    /// Whether the reader has gone, so that more output is pointless.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Hands everything over. Without it the end of the output may be missing.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let flushed = self.to.flush();
        self.forgive(flushed)
    }

    fn forgive(&mut self, written: io::Result<()>) -> io::Result<()> {
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other,
        }
    }
}

/// Writes to stderr. If nobody reads it, there is nobody to tell.
pub fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let mut output = Output::new(Closed);
        output.line("x").unwrap();
        output.flush().unwrap();
        assert!(output.is_closed());
        output.json(&1).unwrap();
        output.line("x".repeat(1 << 20)).unwrap();
        output.flush().unwrap();
    }

    #[test]
    fn lines_and_json() {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes);
        output.line("a").unwrap();
        output.json(&[1, 2]).unwrap();
        output.flush().unwrap();
        drop(output);
        assert_eq!(bytes, b"a\n[1,2]\n");
    }
}
