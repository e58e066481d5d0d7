//! The few programs that are in every simulated container: `true`, `false`, `echo`, `cat`, `sleep`, and `sh -c` with these and
//! `exit`, one after the other (`;`), with `>&2`.

use std::time::Duration;

use moorline_common::op::Exec;

use super::super::logs::LogPart;

/// A shell's exit code for a program that is not there.
const NOT_FOUND: i64 = 127;

/// Runs a command: what it says goes to `said`; returns how long it takes, in milliseconds.
pub(super) fn run(exec: &Exec, said: &mut Vec<LogPart>, exit_code: &mut i64) -> u64 {
    let words: Vec<&str> = exec.argv.iter().map(String::as_str).collect();
    let mut shell = Shell { exec, said, exit_code: 0, lasts_ms: 0, over: false };
    match words.as_slice() {
        [sh, "-c", script, ..] if name(sh) == "sh" => {
            for part in script.split(';') {
                let words: Vec<&str> = part.split_whitespace().collect();
                shell.step(&words);
                if shell.over {
                    break;
                }
            }
        }
        words => shell.step(words),
    }
    *exit_code = shell.exit_code;
    shell.lasts_ms
}

fn name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

struct Shell<'a> {
    exec: &'a Exec,
    said: &'a mut Vec<LogPart>,
    exit_code: i64,
    lasts_ms: u64,
    over: bool,
}

impl Shell<'_> {
    fn step(&mut self, words: &[&str]) {
        let (words, to_stderr) = match words {
            [words @ .., ">&2"] => (words, true),
            words => (words, false),
        };
        let [program, arguments @ ..] = words else { return };
        self.exit_code = 0;
        let data = match (name(program), arguments) {
            ("true", _) => Vec::new(),
            ("false", _) => {
                self.exit_code = 1;
                Vec::new()
            }
            ("echo", words) => format!("{}\n", words.join(" ")).into_bytes(),
            ("cat", []) => self.exec.stdin_bytes().unwrap_or_default(),
            ("sleep", [seconds]) => {
                let span = seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default();
                self.lasts_ms = self.lasts_ms.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
                Vec::new()
            }
            ("exit", [code]) => {
                self.exit_code = code.parse().unwrap_or(2);
                self.over = true;
                Vec::new()
            }
            (other, _) => {
                self.exit_code = NOT_FOUND;
                self.said.push(LogPart { data: format!("{other}: not found\n").into_bytes(), is_stderr: true });
                return;
            }
        };
        self.said.push(LogPart { data, is_stderr: to_stderr });
    }
}
