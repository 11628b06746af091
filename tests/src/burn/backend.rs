//! A small backend, as a database would be: a line `Q MICROSECONDS` costs it so much CPU and is answered by a line `A`.

use std::cell::RefCell;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::meter::spin;

thread_local! {
    static KEPT: RefCell<Option<TcpStream>> = const { RefCell::new(None) };
}

/// Asks the backend once, over the calling thread's kept connection or a new one.
pub fn ask(address: &str, cpu_us: u64, keep_alive: bool) -> io::Result<()> {
    if !keep_alive {
        return exchange(&connect(address)?, cpu_us);
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Some(connect(address)?);
        }
        let result = exchange(kept.as_ref().expect("was just connected"), cpu_us);
        if result.is_err() {
            *kept = None;
        }
        result
    })
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn exchange(stream: &TcpStream, cpu_us: u64) -> io::Result<()> {
    (&*stream).write_all(format!("Q {cpu_us}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::with_capacity(64, stream).read_line(&mut line)?;
    if line == "A\n" { Ok(()) } else { Err(io::Error::other(format!("the backend said {line:?}"))) }
}

/// Answers questions for the life of the process, a thread per connection.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        std::thread::Builder::new().name("burn-backend".to_owned()).spawn(move || converse(&stream))?;
    }
}

fn converse(stream: &TcpStream) {
    for line in BufReader::new(stream).lines() {
        let Some(cpu_us) = line.ok().and_then(|line| line.strip_prefix("Q ").and_then(|us| us.parse().ok()))
        else {
            return;
        };
        spin(Duration::from_micros(cpu_us), None);
        if (&*stream).write_all(b"A\n").is_err() {
            return;
        }
    }
}
