//! A hub for tests: a real HTTP server on this machine that answers as huggingface.co does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has, and how it misbehaves.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    /// Path in the repository `owner/name` (a data set and a model), and content.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Without it the answer is 401.
    pub(super) token: Option<String>,
    /// Answers of this status come first, so many times.
    pub(super) failures: (u16, usize),
    /// So many downloads break off in the middle.
    pub(super) broken_downloads: usize,
    /// `GET` lines and ranges, as they came.
    pub(super) requests: Vec<String>,
}

/// The server; it ends with this value.
pub(super) struct TestHub {
    pub(super) behaviour: Arc<Mutex<Behaviour>>,
    address: SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestHub {
    pub(super) fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = files
            .iter()
            .map(|(name, bytes)| ((*name).into(), bytes.to_vec()));
        let behaviour = Arc::new(Mutex::new(Behaviour {
            files: files.collect(),
            ..Behaviour::default()
        }));
        let shared = Arc::clone(&behaviour);
        let serve = move || {
            for stream in listener.incoming() {
                if !answer(&stream.unwrap(), &mut shared.lock().unwrap()) {
                    return;
                }
            }
        };
        Self {
            behaviour,
            address,
            thread: Some(std::thread::spawn(serve)),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.behaviour.lock().unwrap().requests)
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        // An empty request ends the server.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().ok();
        }
    }
}

/// False at an empty request.
fn answer(mut stream: &TcpStream, behaviour: &mut Behaviour) -> bool {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else {
        return false;
    };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = headers.get("range").cloned().unwrap_or_default();
    behaviour
        .requests
        .push(format!("{path} {range}").trim().to_owned());
    let (head, body) = respond(&path, &range, headers.get("authorization"), behaviour);
    // A client may have gone.
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body))
        .ok();
    true
}

fn respond(
    path: &str,
    range: &str,
    authorization: Option<&String>,
    behaviour: &mut Behaviour,
) -> (String, Vec<u8>) {
    let head = |status: u16, length: usize, more: &str| {
        format!(
            "HTTP/1.1 {status} x\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
        )
    };
    if behaviour.failures.1 > 0 {
        behaviour.failures.1 -= 1;
        return (head(behaviour.failures.0, 0, ""), Vec::new());
    }
    let expected = behaviour
        .token
        .as_ref()
        .map(|token| format!("Bearer {token}"));
    if expected.is_some() && authorization != expected.as_ref() {
        return (head(401, 0, ""), Vec::new());
    }
    let path = path
        .trim_start_matches('/')
        .replace("datasets/", "")
        .replace("models/", "");
    if path == "api/owner/name/revision/main?blobs=true" {
        let files = behaviour.files.iter().map(
            |(name, bytes)| json!({"rfilename": name, "size": bytes.len(), "blobId": blob(name)}),
        );
        let info = json!({"sha": COMMIT, "siblings": files.collect::<Vec<_>>()}).to_string();
        return (head(200, info.len(), ""), info.into_bytes());
    }
    let name = path.strip_prefix(&format!("owner/name/resolve/{COMMIT}/"));
    let Some((name, bytes)) = name.and_then(|name| Some((name, behaviour.files.get(name)?))) else {
        return (head(404, 0, ""), Vec::new());
    };
    let bounds = range
        .trim_start_matches("bytes=")
        .split_once('-')
        .unwrap_or_default();
    let start = bounds.0.parse().unwrap_or(0);
    let end = bounds
        .1
        .parse()
        .map_or(bytes.len(), |last: usize| (last + 1).min(bytes.len()));
    if start >= bytes.len() {
        return (head(416, 0, ""), Vec::new());
    }
    let more = format!(
        "ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        blob(name),
        end - 1,
        bytes.len()
    );
    let mut body = bytes[start..end].to_vec();
    let head = head(206, body.len(), &more);
    if bounds.1.is_empty() && behaviour.broken_downloads > 0 {
        behaviour.broken_downloads -= 1;
        body.truncate(body.len() / 2);
    }
    (head, body)
}

/// What the content is called in the cache.
pub(super) fn blob(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}
