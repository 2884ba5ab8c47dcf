//! Which rank this process is, from the variables of what has started it.

use std::fmt;

use super::error::RankError;
use super::{World, slurm};

const ADDRESS: &str = "MASTER_ADDR";
const PORT: &str = "MASTER_PORT";

/// How this process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which rank it is.
    pub world: World,
    /// Where rank 0 waits for the others; `None` for a process alone.
    pub rendezvous: Option<Rendezvous>,
    /// Ranks on this machine, where the launcher leaves it to them to share its processors.
    pub ranks_here: usize,
    /// Which of the ranks of this machine it is.
    pub local: LocalRank,
}

/// A process among those that one machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalRank {
    /// Its number on this machine, from 0; 0 where the launcher does not say.
    pub rank: usize,
    /// How many the machine runs, at least: not every launcher says.
    pub at_least: usize,
}

/// Where rank 0 waits for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// A name or address of rank 0's machine.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is set; an empty variable is none.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Launch {
    /// A process that nothing but a shell has started.
    pub const ALONE: Self = Self {
        world: World::ALONE,
        rendezvous: None,
        ranks_here: 1,
        local: LocalRank {
            rank: 0,
            at_least: 1,
        },
    };

    /// Reads the variables of torchrun, Open MPI or SLURM.
    ///
    /// In this order, because one may have started the other: torchrun and mpirun run as tasks of
    /// SLURM, whose variables then count machines, not ranks.
    ///
    /// # Errors
    /// When variables are missing or contradict each other.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, RankError> {
        let variables = Variables(get);
        if let Some(world) = variables.world("RANK", "WORLD_SIZE")? {
            let ranks_here = variables.number("LOCAL_WORLD_SIZE")?.unwrap_or(1);
            let local = variables.local("LOCAL_RANK", "LOCAL_WORLD_SIZE")?;
            return variables.launch(world, ranks_here, local, Variables::of_torchrun);
        }
        if let Some(world) = variables.world("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")? {
            let local =
                variables.local("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")?;
            return variables.launch(world, 1, local, |it| it.named("OMPI_COMM_WORLD_SIZE"));
        }
        if let Some(world) = variables.slurm_step()? {
            // How many tasks each machine has it only says of all machines at once.
            let local = variables.local("SLURM_LOCALID", "")?;
            return variables.launch(world, 1, local, Variables::of_slurm);
        }
        Ok(Self::ALONE)
    }
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, RankError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(wrong(name, value, "a number that fits")),
        }
    }

    /// Rank and number of ranks, where either is set.
    fn world(&self, rank: &str, size: &str) -> Result<Option<World>, RankError> {
        match (self.number::<usize>(rank)?, self.number::<usize>(size)?) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(missing(rank, size)),
            (None, Some(_)) => Err(missing(size, rank)),
            (Some(_), Some(0)) => Err(wrong(size, "0".to_owned(), "a number of ranks")),
            (Some(this), Some(all)) if this >= all => {
                let expected = format!("below the {all} of `{size}`");
                Err(wrong(rank, this.to_string(), &expected))
            }
            (Some(rank), Some(size)) => Ok(Some(World { rank, size })),
        }
    }

    /// The task of a job step. Only srun sets `SLURM_STEP_NUM_TASKS`: a batch script and the shell of
    /// salloc know `SLURM_NTASKS` too, and a batch script `SLURM_PROCID=0`, but run once.
    fn slurm_step(&self) -> Result<Option<World>, RankError> {
        const TASK: &str = "SLURM_PROCID";
        const TASKS: &str = "SLURM_STEP_NUM_TASKS";
        let (task, tasks): (Option<usize>, Option<usize>) =
            (self.number(TASK)?, self.number(TASKS)?);
        match (task, tasks) {
            (None | Some(0), None) | (None, Some(1)) => Ok(None),
            _ => self.world(TASK, TASKS),
        }
    }

    fn local(&self, rank: &str, size: &str) -> Result<LocalRank, RankError> {
        let rank = self.number(rank)?.unwrap_or(0);
        let at_least = self.number(size)?.unwrap_or(0).max(rank + 1);
        Ok(LocalRank { rank, at_least })
    }

    fn launch(
        &self,
        world: World,
        ranks_here: usize,
        local: LocalRank,
        rendezvous: impl FnOnce(&Self) -> Result<Rendezvous, RankError>,
    ) -> Result<Launch, RankError> {
        if world.size == 1 {
            return Ok(Launch::ALONE);
        }
        Ok(Launch {
            world,
            rendezvous: Some(rendezvous(self)?),
            ranks_here: ranks_here.max(1),
            local,
        })
    }

    /// `MASTER_ADDR` and `MASTER_PORT`; `because` says that there are several ranks.
    fn named(&self, because: &str) -> Result<Rendezvous, RankError> {
        Ok(Rendezvous {
            host: self.get(ADDRESS).ok_or_else(|| missing(because, ADDRESS))?,
            port: self.port()?.ok_or_else(|| missing(because, PORT))?,
        })
    }

    fn port(&self) -> Result<Option<u16>, RankError> {
        match self.number(PORT)? {
            Some(0) => Err(wrong(PORT, "0".to_owned(), "a port")),
            port => Ok(port),
        }
    }

    /// torchrun's agent often listens at `MASTER_PORT` itself, and says so; then it is the next port.
    fn of_torchrun(&self) -> Result<Rendezvous, RankError> {
        let mut rendezvous = self.named("WORLD_SIZE")?;
        if self.get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True") {
            let next = rendezvous.port.checked_add(1);
            rendezvous.port = next.unwrap_or(rendezvous.port - 1);
        }
        Ok(rendezvous)
    }

    fn of_slurm(&self) -> Result<Rendezvous, RankError> {
        const SIZE: &str = "SLURM_STEP_NUM_TASKS";
        const NODES: &str = "SLURM_JOB_NODELIST";
        const JOB: &str = "SLURM_JOB_ID";
        // The step may have left out the job's first machine.
        let nodes = || self.get("SLURM_STEP_NODELIST").or_else(|| self.get(NODES));
        let host = match self.get(ADDRESS) {
            Some(host) => host,
            None => slurm::first_host(&nodes().ok_or_else(|| missing(SIZE, NODES))?),
        };
        let port = match self.port()? {
            Some(port) => port,
            None => {
                let job = self.number(JOB)?.ok_or_else(|| missing(SIZE, JOB))?;
                slurm::port(job, self.number("SLURM_STEP_ID")?.unwrap_or(0))
            }
        };
        Ok(Rendezvous { host, port })
    }
}

fn missing(set: &str, missing: &str) -> RankError {
    let (set, missing) = (set.to_owned(), missing.to_owned());
    RankError::MissingVariable { set, missing }
}

fn wrong(name: &str, value: String, expected: &str) -> RankError {
    let (name, expected) = (name.to_owned(), expected.to_owned());
    RankError::Variable {
        name,
        value,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Result<Launch, RankError> {
        let get = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Launch::from_variables(&get)
    }

    #[track_caller]
    fn ranked(variables: &[(&str, &str)]) -> (usize, usize, String) {
        let launch = launch(variables).unwrap();
        let at = launch.rendezvous.expect("several ranks").to_string();
        (launch.world.rank, launch.world.size, at)
    }

    #[track_caller]
    fn refusal(variables: &[(&str, &str)]) -> String {
        launch(variables).unwrap_err().to_string()
    }

    const TORCHRUN: [(&str, &str); 4] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "head"),
        ("MASTER_PORT", "29500"),
    ];

    /// As `env` shows them in a batch script of `--ntasks=4`.
    const BATCH_SCRIPT: [(&str, &str); 4] = [
        ("SLURM_JOB_ID", "200505"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_PROCID", "0"),
        ("SLURM_JOB_NODELIST", "gnode[10,20]"),
    ];

    /// `srun --ntasks=2` in that job, on its second machine.
    const STEP: [(&str, &str); 3] = [
        ("SLURM_STEP_NUM_TASKS", "2"),
        ("SLURM_STEP_NODELIST", "gnode20"),
        ("SLURM_STEP_ID", "1"),
    ];

    #[test]
    fn a_process_without_a_launcher_is_alone() {
        assert_eq!(launch(&[]).unwrap(), Launch::ALONE);
        // Often exported for other programs, or set to nothing.
        let leftovers = [("MASTER_ADDR", "head"), ("RANK", ""), ("WORLD_SIZE", "")];
        assert_eq!(launch(&leftovers).unwrap(), Launch::ALONE);
    }

    #[test]
    fn torchrun() {
        assert_eq!(ranked(&TORCHRUN), (1, 4, "head:29500".to_owned()));
        let mut with = TORCHRUN.to_vec();
        with.push(("LOCAL_WORLD_SIZE", "2"));
        assert_eq!(launch(&with).unwrap().ranks_here, 2);
        let at = |rank, at_least| LocalRank { rank, at_least };
        assert_eq!(launch(&with).unwrap().local, at(0, 2));
        with.push(("LOCAL_RANK", "1"));
        assert_eq!(launch(&with).unwrap().local, at(1, 2));
        // One process needs no address.
        let one = [("RANK", "0"), ("WORLD_SIZE", "1")];
        assert_eq!(launch(&one).unwrap(), Launch::ALONE);
    }

    #[test]
    fn a_port_that_torchruns_agent_has_taken_is_not_ours() {
        let mut with = TORCHRUN.to_vec();
        with.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        assert_eq!(ranked(&with).2, "head:29501");
        with[3].1 = "65535";
        assert_eq!(ranked(&with).2, "head:65534");
        with[4].1 = "False";
        assert_eq!(ranked(&with).2, "head:65535");
    }

    #[test]
    fn open_mpi_needs_an_address() {
        let mut variables = vec![("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(
            refusal(&variables),
            "the environment variable `MASTER_ADDR` is not set, but `OMPI_COMM_WORLD_SIZE` is"
        );
        variables.extend([("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "3000")]);
        assert_eq!(ranked(&variables), (0, 2, "10.0.0.1:3000".to_owned()));
        let mut with = variables.clone();
        with.push(("OMPI_COMM_WORLD_LOCAL_RANK", "1"));
        with.push(("OMPI_COMM_WORLD_LOCAL_SIZE", "4"));
        let local = launch(&with).unwrap().local;
        assert_eq!((local.rank, local.at_least), (1, 4));
        variables[1].1 = "1";
        assert_eq!(launch(&variables[..2]).unwrap(), Launch::ALONE);
    }

    #[test]
    fn slurm_counts_only_inside_a_job_step() {
        assert_eq!(launch(&BATCH_SCRIPT).unwrap(), Launch::ALONE);
        // The shell that salloc opens: an allocation of four tasks, one of which is the shell.
        assert_eq!(launch(&BATCH_SCRIPT[..2]).unwrap(), Launch::ALONE);
        let mut shell = BATCH_SCRIPT.to_vec();
        shell.push(("SLURM_STEP_NUM_TASKS", "1"));
        assert_eq!(launch(&shell).unwrap(), Launch::ALONE);

        let mut step = [&BATCH_SCRIPT[..], &STEP].concat();
        let port = slurm::port(200_505, 1);
        assert_eq!(ranked(&step), (0, 2, format!("gnode20:{port}")));
        step[2].1 = "1";
        step.extend([("MASTER_ADDR", "head"), ("MASTER_PORT", "4000")]);
        assert_eq!(ranked(&step), (1, 2, "head:4000".to_owned()));
        step.push(("SLURM_LOCALID", "3"));
        let local = launch(&step).unwrap().local;
        assert_eq!((local.rank, local.at_least), (3, 4));
    }

    #[test]
    fn the_innermost_launcher_counts() {
        let slurm = [&BATCH_SCRIPT[..], &STEP].concat();
        let torchrun = [&slurm[..], &TORCHRUN].concat();
        assert_eq!(ranked(&torchrun).1, 4);
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "2"),
            ("OMPI_COMM_WORLD_SIZE", "8"),
            ("MASTER_ADDR", "head"),
            ("MASTER_PORT", "4000"),
        ];
        assert_eq!(
            ranked(&[&slurm[..], &mpirun].concat()),
            (2, 8, "head:4000".to_owned())
        );
    }

    #[test]
    fn what_is_half_set_or_contradicts_itself_is_named() {
        let says = |variables: &[(&str, &str)], expected: &str| {
            let said = refusal(variables);
            let expected = format!("the environment variable {expected}");
            assert_eq!(said, expected, "{variables:?}");
        };
        says(&[("RANK", "0")], "`WORLD_SIZE` is not set, but `RANK` is");
        says(
            &[("WORLD_SIZE", "2")],
            "`RANK` is not set, but `WORLD_SIZE` is",
        );
        says(
            &[("RANK", "2"), ("WORLD_SIZE", "2")],
            "`RANK` is `2`, which is not below the 2 of `WORLD_SIZE`",
        );
        says(
            &[("RANK", "-1"), ("WORLD_SIZE", "2")],
            "`RANK` is `-1`, which is not a number that fits",
        );
        says(
            &[("RANK", "0"), ("WORLD_SIZE", "0")],
            "`WORLD_SIZE` is `0`, which is not a number of ranks",
        );
        says(
            &TORCHRUN[..3],
            "`MASTER_PORT` is not set, but `WORLD_SIZE` is",
        );
        let mut bad_port = TORCHRUN;
        bad_port[3].1 = "70000";
        says(
            &bad_port,
            "`MASTER_PORT` is `70000`, which is not a number that fits",
        );
        // Only a job step has a second task.
        says(
            &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")],
            "`SLURM_STEP_NUM_TASKS` is not set, but `SLURM_PROCID` is",
        );
        says(
            &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")],
            "`SLURM_JOB_NODELIST` is not set, but `SLURM_STEP_NUM_TASKS` is",
        );
    }
}
