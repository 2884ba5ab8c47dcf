//! An embedding service on this machine, as good or as bad as a test wants it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method and path.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Received {
    pub fn texts(&self) -> Vec<&str> {
        let input = self.body["input"].as_array().unwrap();
        input.iter().map(|text| text.as_str().unwrap()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
pub enum Reply {
    /// Status, further header lines, body.
    Answer(u16, &'static str, String),
    /// These bytes as they are; then the connection is closed.
    Bytes(Vec<u8>),
}

/// The server; its thread ends with the test's process.
pub struct EmbeddingServer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl EmbeddingServer {
    /// `reply` gets the number of the request, from 0, and the request.
    pub fn start(reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (shared, reply) = (state.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, reply) = (shared.clone(), reply.clone());
                // A client that goes away in the middle is none of the server's faults.
                std::thread::spawn(move || serve(stream, &state, reply.as_ref()).ok());
            }
        });
        Self { address, state }
    }

    /// A server that does all right.
    pub fn well_behaved() -> Self {
        Self::start(|_, received| answer(&received.texts()))
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    pub fn requests(&self) -> usize {
        self.received().len()
    }

    pub fn most_under_way(&self) -> usize {
        self.state.most_under_way.load(Ordering::SeqCst)
    }
}

fn serve(
    stream: TcpStream,
    state: &State,
    reply: &dyn Fn(usize, &Received) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(received) = read_request(&mut reader)? {
        let under_way = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let number = {
            let mut all = state.received.lock().unwrap();
            all.push(received.clone());
            all.len() - 1
        };
        let reply = reply(number, &received);
        state.under_way.fetch_sub(1, Ordering::SeqCst);
        match reply {
            Reply::Bytes(bytes) => {
                writer.write_all(&bytes)?;
                return writer.shutdown(std::net::Shutdown::Both);
            }
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n"
                );
                writer.write_all((head + &body).as_bytes())?;
            }
        }
    }
    Ok(())
}

/// `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Received>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: u64 = length.unwrap().1.parse().unwrap();
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Some(Received {
        target,
        headers,
        body: serde_json::from_slice(&body)?,
    }))
}

/// How often each of five words is in a text, and its length: not of length 1.
pub fn vector_of(text: &str) -> Vec<f32> {
    let words = ["one", "two", "three", "four", "five"];
    let count = |word| {
        text.split_whitespace()
            .filter(|other| *other == word)
            .count() as f32
    };
    let mut vector: Vec<f32> = words.into_iter().map(count).collect();
    vector.push(0.125 * text.len() as f32);
    vector
}

/// As OpenAI answers, but the last text first. A token is a word here.
pub fn answer(texts: &[&str]) -> Reply {
    let items = texts.iter().enumerate().rev().map(|(index, text)| {
        json!({"object": "embedding", "index": index, "embedding": vector_of(text)})
    });
    answer_with(texts, items.collect())
}

/// As OpenAI answers, with this `data`.
pub fn answer_with(texts: &[&str], data: Vec<Value>) -> Reply {
    let tokens: usize = texts
        .iter()
        .map(|text| text.split_whitespace().count())
        .sum();
    let body = json!({
        "object": "list",
        "data": data,
        "model": "toy",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens}
    });
    Reply::Answer(200, "", body.to_string())
}

/// An error as OpenAI sends it.
pub fn error(status: u16, message: &str) -> Reply {
    error_with(status, "", message)
}

/// An error with further header lines.
pub fn error_with(status: u16, headers: &'static str, message: &str) -> Reply {
    let body = json!({"error": {"message": message, "type": "t", "param": null, "code": null}});
    Reply::Answer(status, headers, body.to_string())
}
