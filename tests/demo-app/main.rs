//! The one program inside the image `moorline-demo:1`: small, static, and quick to stop.
//!
//! Verbs: `serve [PORT]` answers HTTP with who it is; `check [PORT]` asks such a server (for
//! healthchecks); `sleep [SECONDS|infinity]`, without a word for ever; `true`; `exit CODE`; `print WORDS`. The verb may also be
//! the program's own file name, so that `/bin/sleep` works. `cat FILE` prints a file. Compiled by the harness with plain `rustc`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

const PORT: u16 = 8080;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

/// As process 1 of a container it would ignore these signals without a handler.
extern "C" fn leave(_: i32) {
    // SAFETY: `_exit` is async-signal-safe and takes any code.
    unsafe { _exit(0) }
}

fn main() {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    // SAFETY: `leave` has the signature of a signal handler and calls only `_exit`.
    unsafe {
        signal(SIGTERM, leave);
        signal(SIGINT, leave);
    }
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut words: Vec<String> = words.collect();
    let verb = match name.as_str() {
        "sleep" | "true" | "check" | "cat" => name,
        _ if words.is_empty() => "serve".to_owned(),
        _ => words.remove(0),
    };
    let first = words.first().map(String::as_str);
    let port = first.and_then(|p| p.parse().ok()).unwrap_or(PORT);
    let code = match verb.as_str() {
        "serve" => serve(port),
        "check" => i32::from(!answers(port)),
        "sleep" => sleep(first),
        "true" => 0,
        "exit" => first.and_then(|c| c.parse().ok()).unwrap_or(1),
        "cat" => match first.map(std::fs::read) {
            Some(Ok(content)) => i32::from(std::io::stdout().write_all(&content).is_err()),
            Some(Err(error)) => {
                eprintln!("moorline-demo: {error}");
                1
            }
            None => i32::from(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).is_err()),
        },
        "print" => {
            println!("{}", words.join(" "));
            0
        }
        "lines" => lines(first, words.get(1).is_some()),
        "tick" => tick(),
        "eat" => eat(),
        other => {
            eprintln!("moorline-demo: no verb `{other}`; known are serve, check, sleep, true, exit, print, lines, tick, eat, cat");
            64
        }
    };
    std::process::exit(code);
}

fn sleep(span: Option<&str>) -> i32 {
    match span.map(|span| (span, span.parse())) {
        Some((_, Ok(seconds))) => std::thread::sleep(Duration::from_secs(seconds)),
        None | Some(("infinity", _)) => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Some((other, Err(_))) => {
            eprintln!("moorline-demo: `{other}` is no number of seconds, nor `infinity`");
            return 64;
        }
    }
    0
}

/// So many numbered lines, each tenth to standard error; then nothing more.
fn lines(count: Option<&str>, stays: bool) -> i32 {
    for n in 1..=count.and_then(|c| c.parse().ok()).unwrap_or(10_u32) {
        if n % 10 == 0 {
            eprintln!("error {n} {}", "-".repeat(80));
        } else {
            println!("line {n} {}", "-".repeat(80));
        }
    }
    if stays { sleep(None) } else { 0 }
}

/// Takes ever more memory.
fn eat() -> i32 {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&taken);
    }
}

/// A numbered line ten times in a second.
fn tick() -> i32 {
    for n in 1_u64.. {
        println!("tick {n}");
        std::thread::sleep(Duration::from_millis(100));
    }
    0
}

fn serve(port: u16) -> i32 {
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("moorline-demo: cannot listen on port {port}: {error}");
            return 1;
        }
    };
    println!("moorline-demo: listening on port {port}");
    for stream in listener.incoming().flatten() {
        let _ = answer(stream);
    }
    0
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let _ = stream.read(&mut [0; 4096])?;
    let host = std::env::var("HOST").unwrap_or_default();
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    let body = format!("{greeting} from {host}\n");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut text = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok() && stream.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200")
}
