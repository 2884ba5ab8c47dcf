//! Starting workers, and getting rid of those that hang or die.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use super::execute::QueryLimits;
use super::protocol::{Query, Reply, Request, Side, Verdict, Work};
use crate::error::EvalError;
use crate::rows::ResultTable;

/// What a worker has to start, also on a machine that is busy.
const START_TIME: Duration = Duration::from_secs(30);

/// What a worker has beyond a query's wall clock, which it watches itself between the steps of SQLite.
const GRACE: Duration = Duration::from_secs(3);

/// The longest line that is believed to come from a worker; twenty times what two previews take.
const LONGEST_REPLY_BYTES: u64 = 16 << 20;

/// How a process is started in which model-written SQL can do no harm.
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: PathBuf,
    arguments: Vec<String>,
    #[cfg(test)]
    is_thread: bool,
}

impl Sandbox {
    /// Workers are `program` with these arguments, which must do nothing but [`run_worker`](super::run_worker).
    pub fn program(program: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.iter().copied().map(str::to_owned).collect(),
            #[cfg(test)]
            is_thread: false,
        }
    }

    /// Workers are this program with other arguments.
    ///
    /// # Errors
    /// [`EvalError::StartWorker`] if the system does not tell where the program is.
    pub fn this_program(arguments: &[&str]) -> Result<Self, EvalError> {
        // What runs now, also if the file was replaced by a newer version after the start.
        const RUNNING: &str = "/proc/self/exe";
        let program = if Path::new(RUNNING).exists() {
            PathBuf::from(RUNNING)
        } else {
            std::env::current_exe().map_err(|source| EvalError::StartWorker {
                program: PathBuf::from("rag-tune"),
                source,
            })?
        };
        Ok(Self::program(program, arguments))
    }

    /// The first rows of what `sql`, a query that nobody has read, returns from `database`; only its first statement runs.
    ///
    /// # Errors
    /// [`EvalError::Query`] if it fails or is stopped; [`EvalError::OpenDatabase`]; if no worker starts.
    pub fn query(
        &self,
        database: &Path,
        sql: &str,
        limits: QueryLimits,
    ) -> Result<ResultTable, EvalError> {
        // Workers run in another folder.
        let absolute = std::path::absolute(database).map_err(|source| EvalError::Read {
            path: database.to_owned(),
            source,
        })?;
        let query = Query {
            database: absolute,
            sql: sql.to_owned(),
            limits,
        };
        let result = self.start()?.query(query)?;
        result.map_err(|problem| EvalError::Query { problem })
    }

    /// Starts a worker and waits until it is ready.
    pub(super) fn start(&self) -> Result<Worker, EvalError> {
        let failed = |source| EvalError::StartWorker {
            program: self.program.clone(),
            source,
        };
        let mut worker = self.connect().map_err(failed)?;
        match worker.reply(START_TIME) {
            Ok(Reply::Ready) => Ok(worker),
            Ok(Reply::Unconfined { reason }) => Err(failed(io::Error::other(reason))),
            Ok(_) => Err(failed(io::Error::other("it answers before it is asked"))),
            Err(lost) => Err(failed(io::Error::other(lost.to_string()))),
        }
    }

    fn connect(&self) -> io::Result<Worker> {
        #[cfg(test)]
        if self.is_thread {
            return tests::thread_worker();
        }
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let requests = child.stdin.take().expect("stdin is a pipe");
        let output = child.stdout.take().expect("stdout is a pipe");
        Ok(Worker::new(Some(child), requests, output))
    }
}

/// Why a worker gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// It said nothing for this long.
    #[error("its process did not answer within {} s", .0.as_secs_f64())]
    Silent(Duration),
    /// It ended, or it said something that is no reply.
    #[error("it crashed its process ({0})")]
    Died(String),
}

impl Lost {
    /// It answers something else than it was asked.
    fn unasked() -> Self {
        Self::Died("it answers what it was not asked".to_owned())
    }
}

fn unusable(path: &Path, reason: String) -> EvalError {
    EvalError::OpenDatabase {
        path: path.to_owned(),
        source: reason.into(),
    }
}

/// What became of a request.
pub(super) enum Answer {
    /// The row is judged.
    Judged(Verdict),
    /// The worker was lost while it ran a query of this side, and another one is needed for the next row.
    Lost(Side, Lost),
}

/// A running worker. Dropping it ends it.
pub(super) struct Worker {
    /// None if it is a thread of a test.
    process: Option<Child>,
    requests: Box<dyn Write + Send>,
    replies: Receiver<Reply>,
}

impl Worker {
    fn new(
        process: Option<Child>,
        requests: impl Write + Send + 'static,
        output: impl Read + Send + 'static,
    ) -> Self {
        let (sender, replies) = channel();
        // It ends when the worker does, because the worker has the other end of the pipe.
        thread::spawn(move || forward(output, &sender));
        Self {
            process,
            requests: Box::new(requests),
            replies,
        }
    }

    /// Has a row judged.
    ///
    /// # Errors
    /// [`EvalError::OpenDatabase`]
    pub fn judge(&mut self, request: &Request) -> Result<Answer, EvalError> {
        let work = Work::Judge(request.clone());
        if let Err(lost) = self.send(&work, &request.databases[0])? {
            return Ok(Answer::Lost(Side::Prediction, lost));
        }
        let mut side = Side::Prediction;
        loop {
            match self.reply(request.limits.wall_clock + GRACE) {
                Ok(Reply::Running(now)) => side = now,
                Ok(Reply::Judged(verdict)) => return Ok(Answer::Judged(verdict)),
                Ok(Reply::Unusable { path, reason }) => return Err(unusable(&path, reason)),
                Ok(Reply::Ready | Reply::Unconfined { .. } | Reply::Returned(_)) => {
                    return Ok(Answer::Lost(side, Lost::unasked()));
                }
                Err(lost) => return Ok(Answer::Lost(side, lost)),
            }
        }
    }

    /// Has a query run; its result, or why it has none.
    ///
    /// # Errors
    /// [`EvalError::OpenDatabase`]
    fn query(&mut self, query: Query) -> Result<Result<ResultTable, String>, EvalError> {
        let (database, time) = (query.database.clone(), query.limits.wall_clock + GRACE);
        let stopped = |lost: Lost| Ok(Err(format!("the query was stopped: {lost}")));
        if let Err(lost) = self.send(&Work::Query(query), &database)? {
            return stopped(lost);
        }
        match self.reply(time) {
            Ok(Reply::Returned(result)) => Ok(result),
            Ok(Reply::Unusable { path, reason }) => Err(unusable(&path, reason)),
            Ok(_) => stopped(Lost::unasked()),
            Err(lost) => stopped(lost),
        }
    }

    /// Sends a line; `database` is the file that it is about.
    fn send(&mut self, work: &Work, database: &Path) -> Result<Result<(), Lost>, EvalError> {
        // The only thing in a request that JSON may not be able to say is a path.
        let line =
            serde_json::to_string(work).map_err(|error| unusable(database, error.to_string()))?;
        let sent = writeln!(self.requests, "{line}").and_then(|()| self.requests.flush());
        Ok(sent.map_err(|error| Lost::Died(error.to_string())))
    }

    fn reply(&mut self, time: Duration) -> Result<Reply, Lost> {
        match self.replies.recv_timeout(time) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Timeout) => Err(Lost::Silent(time)),
            Err(RecvTimeoutError::Disconnected) => Err(Lost::Died(self.end())),
        }
    }

    /// Kills it, and says how it ended.
    fn end(&mut self) -> String {
        let Some(process) = &mut self.process else {
            return "it has ended".to_owned();
        };
        // One that was ending by itself keeps its own reason.
        match process.kill().and_then(|()| process.wait()) {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Fails only where it has ended and was waited for.
            process.kill().and_then(|()| process.wait()).ok();
        }
    }
}

/// Reads replies until the first line that is none.
fn forward(output: impl Read, replies: &Sender<Reply>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut output)
            .take(LONGEST_REPLY_BYTES)
            .read_until(b'\n', &mut line);
        let is_line = read.is_ok() && line.ends_with(b"\n");
        let Some(reply) = is_line
            .then(|| serde_json::from_slice(&line).ok())
            .flatten()
        else {
            return;
        };
        if replies.send(reply).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::worker::serve;
    use super::*;

    impl Sandbox {
        /// Workers that are threads: for tests of what is judged, not of where.
        pub fn thread() -> Self {
            Self {
                is_thread: true,
                ..Self::program("", &[])
            }
        }
    }

    pub(super) fn thread_worker() -> io::Result<Worker> {
        let (input, requests) = io::pipe()?;
        let (replies, output) = io::pipe()?;
        thread::spawn(move || serve(BufReader::new(input), output));
        Ok(Worker::new(None, requests, replies))
    }

    fn shell(script: &str) -> Sandbox {
        Sandbox::program("/bin/sh", &["-c", script])
    }

    fn request() -> Request {
        Request {
            databases: vec![PathBuf::from("/zoo.sqlite")],
            gold: "SELECT 1".to_owned(),
            prediction: "SELECT 1".to_owned(),
            limits: QueryLimits {
                wall_clock: Duration::ZERO,
                ..QueryLimits::default()
            },
        }
    }

    #[track_caller]
    fn lost(script: &str) -> (Side, String) {
        match shell(script).start().unwrap().judge(&request()) {
            Ok(Answer::Lost(side, lost)) => (side, lost.to_string()),
            Ok(Answer::Judged(verdict)) => panic!("{verdict:?}"),
            Err(error) => panic!("{error}"),
        }
    }

    const READY: &str = "echo '\"ready\"'; ";

    #[test]
    fn a_query_returns_its_first_rows_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("zoo.sqlite");
        let connection = rusqlite::Connection::open(&file).unwrap();
        let rows: Vec<String> = (0..30).map(|id| format!("({})", id / 2)).collect();
        let script = format!(
            "CREATE TABLE animal (id INTEGER); INSERT INTO animal VALUES {}",
            rows.join(",")
        );
        connection.execute_batch(&script).unwrap();
        let query = |sql: &str| Sandbox::thread().query(&file, sql, QueryLimits::default());
        let table =
            query("SELECT DISTINCT id FROM animal WHERE id < 3; DROP TABLE animal").unwrap();
        assert_eq!(
            (table.columns, table.rows),
            (
                vec!["id".to_owned()],
                vec![vec![0.into()], vec![1.into()], vec![2.into()]]
            )
        );
        let table = query("SELECT * FROM animal").unwrap();
        assert_eq!((table.rows.len(), table.total_rows), (20, 30));
        let problem = |sql: &str| query(sql).unwrap_err().to_string();
        assert_eq!(
            problem("SELECT wings FROM animal"),
            "the query does not run: no such column: wings"
        );
        assert!(problem("DELETE FROM animal").starts_with("the query does not run: "));
        let hangs = shell(&format!("{READY} exec sleep 1000"));
        let limits = QueryLimits {
            wall_clock: Duration::ZERO,
            ..QueryLimits::default()
        };
        let error = hangs
            .query(&file, "SELECT 1", limits)
            .unwrap_err()
            .to_string();
        assert!(error.contains("did not answer within 3 s"), "{error}");
        let error = Sandbox::thread().query(Path::new("no.sqlite"), "SELECT 1", limits);
        assert!(matches!(error, Err(EvalError::OpenDatabase { .. })));
    }

    #[test]
    fn a_program_that_does_not_start_is_named() {
        let start = |sandbox: Sandbox| sandbox.start().err().unwrap().to_string();
        let text = start(Sandbox::program("/no/such/program", &[]));
        assert!(text.contains("/no/such/program"), "{text}");
        let error = shell("exit 3").start().err().unwrap();
        assert!(error.hint().is_some());
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("exit status: 3"), "{source}");
    }

    #[test]
    fn a_worker_that_dies_is_told_from_one_that_hangs() {
        let (side, reason) = lost(&format!("{READY} read line; kill -SEGV $$"));
        assert_eq!(side, Side::Prediction);
        assert!(reason.contains("signal: 11"), "{reason}");
        let start = Instant::now();
        let gold = "echo '{\"running\":\"gold\"}'; ";
        let (side, reason) = lost(&format!("{READY} {gold} exec sleep 1000"));
        assert_eq!(side, Side::Gold);
        assert!(reason.contains("did not answer within 3 s"), "{reason}");
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_worker_that_talks_nonsense_is_given_up() {
        for nonsense in [
            "echo hello",
            "printf '\"ready'",
            "echo '\"ready\"'",
            "exec cat /dev/zero",
        ] {
            let (_, reason) = lost(&format!("{READY} read line; {nonsense}"));
            assert!(reason.contains("crashed"), "{nonsense}: {reason}");
        }
    }

    /// A worker gets nothing that could tell it secrets or change what SQLite does.
    #[test]
    fn a_worker_has_no_environment() {
        let print = "set -- $(env); echo \"{\\\"unconfined\\\":{\\\"reason\\\":\\\"$*\\\"}}\"";
        let error = shell(print).start().err().unwrap();
        let text = std::error::Error::source(&error).unwrap().to_string();
        // The shell itself sets these.
        let own = ["PWD=", "OLDPWD=", "SHLVL=", "_="];
        for variable in text.split(' ') {
            assert!(own.iter().any(|own| variable.starts_with(own)), "{text}");
        }
    }
}
