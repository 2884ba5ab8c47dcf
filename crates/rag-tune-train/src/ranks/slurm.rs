//! Names and ports out of SLURM's variables.

/// The first host of a list such as `gpu[03-08,11],login1`: `gpu03`.
pub(super) fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list.trim().chars();
    while let Some(character) = rest.next() {
        match character {
            ',' => break,
            '[' => {
                // The first number of the first range, zeros included; then what stands behind the bracket.
                let inside: String = rest.by_ref().take_while(|next| *next != ']').collect();
                host.extend(inside.chars().take_while(|next| !"-,".contains(*next)));
            }
            other => host.push(other),
        }
    }
    host
}

/// A port that all tasks of a job step find by themselves, below those that systems give to outgoing
/// connections (32768 on Linux).
pub(super) fn port(job: u64, step: u64) -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u64 = 10_000;
    FIRST + (job.wrapping_mul(31).wrapping_add(step) % COUNT) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list() {
        for (list, expected) in [
            ("node7", "node7"),
            ("node7,node9", "node7"),
            ("gnode[10,20,25,37]", "gnode10"),
            ("gpu[003-008,011],login1", "gpu003"),
            ("rack[2-3]node[04-05]", "rack2node04"),
            ("a[1-2]-ib,b", "a1-ib"),
            ("broken[1-", "broken1"),
            ("", ""),
        ] {
            assert_eq!(first_host(list), expected, "{list}");
        }
    }

    #[test]
    fn neighbouring_jobs_and_steps_have_other_ports() {
        let ports = [port(200_505, 0), port(200_505, 1), port(200_506, 0)];
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)));
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
        port(u64::MAX, u64::MAX);
    }
}
