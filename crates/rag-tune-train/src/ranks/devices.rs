//! Gradients of ranks that run on devices: each rank has the sum over its own micro-batches, and one sum over the ranks follows.
//!
//! NCCL makes it on the devices where it can. Otherwise it goes through host memory and over TCP, added in the order of the ranks. Either way
//! every rank has the same bits; they depend on the number of ranks.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rag_tune_kernels::cuda::{Device, Member, PeerId, Peers};
use rag_tune_kernels::{KernelError, Tensor};
use rag_tune_model::lora::AdapterGradient;
use serde::{Deserialize, Serialize};

use super::{Collective, RankError, World, broadcast_json};
use crate::error::TrainError;

/// NCCL may see that a connection was closed before the thread that reads ours has said so.
const FOR_THE_REASON: Duration = Duration::from_secs(2);

/// Where a rank computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// For people.
    name: String,
    is_device: bool,
    /// Where a device tells it.
    uuid: Option<String>,
    /// Whether the gradient lies on the device too.
    has_gradient: bool,
    /// The version of NCCL, or why there is none.
    nccl: Result<String, String>,
}

impl Place {
    /// Of the rank whose model is on `device`, if on any, and whose gradient is this one.
    pub(crate) fn of(device: Option<&Device>, gradient: &AdapterGradient) -> Self {
        let nccl = device.map(|device| Peers::version(device).map_err(|error| error.to_string()));
        Self {
            name: device.map_or_else(|| "the CPU".to_owned(), Device::name),
            is_device: device.is_some(),
            uuid: device.and_then(Device::uuid),
            has_gradient: gradient.device().is_some(),
            nccl: nccl.unwrap_or_else(|| Err("there is no device".to_owned())),
        }
    }

    /// Refuses a rank on another kind of place than rank 0's: its roundings are others, and its steps take other times.
    pub(crate) fn check_kind(&self, rank: usize, first: &Self) -> Result<(), RankError> {
        match self.is_device == first.is_device {
            true => Ok(()),
            false => Err(RankError::OtherPlace {
                rank,
                place: self.name.clone(),
                first: first.name.clone(),
            }),
        }
    }
}

/// Ranks that were given one device.
#[derive(Debug, PartialEq)]
pub(crate) struct Shared {
    pub(crate) ranks: Vec<usize>,
    pub(crate) device: String,
}

/// Devices that more than one of the ranks at `places` has.
pub(crate) fn shared(places: &[Place]) -> Vec<Shared> {
    let mut shared: Vec<Shared> = Vec::new();
    for (first, place) in places.iter().enumerate() {
        let is_same = |other: &Place| other.uuid.is_some() && other.uuid == place.uuid;
        if places[..first].iter().any(is_same) {
            continue;
        }
        let ranks = places.iter().enumerate();
        let ranks = ranks.filter(|(_, other)| is_same(other));
        let ranks: Vec<usize> = ranks.map(|(rank, _)| rank).collect();
        if ranks.len() > 1 {
            let device = place.name.clone();
            shared.push(Shared { ranks, device });
        }
    }
    shared
}

/// Why NCCL cannot sum over the ranks at `places`; `None` if it can.
fn without_nccl(places: &[Place]) -> Option<String> {
    if places.iter().any(|place| !place.has_gradient) {
        return Some("`train.optimizer` keeps its state in host memory".to_owned());
    }
    if !shared(places).is_empty() {
        return Some("ranks share a GPU, which NCCL does not allow".to_owned());
    }
    let first = &places[0].nccl;
    for (rank, place) in places.iter().enumerate() {
        match (&place.nccl, first) {
            (Err(why), _) => return Some(format!("on rank {rank}, {why}")),
            (Ok(version), Ok(first)) if version != first => {
                return Some(format!(
                    "rank {rank} has NCCL {version}, and rank 0 {first}"
                ));
            }
            _ => {}
        }
    }
    None
}

/// How the ranks sum. Rank 0 decides.
#[derive(Debug, Serialize, Deserialize)]
enum Way {
    Nccl { id: Vec<u8> },
    ThroughHost { why: String },
}

/// The sum over ranks on devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceSums {
    /// `None`: through host memory.
    peers: Option<Peers>,
    packed: Vec<f32>,
}

impl DeviceSums {
    /// Agrees on the way with the other ranks. `places` are those of all ranks, known to rank 0. Returns also why it is not NCCL's, where it is not.
    pub(crate) fn meet(
        device: &Device,
        places: &[Place],
        ranks: &mut dyn Collective,
    ) -> Result<(Self, Option<String>), TrainError> {
        let way = match ranks.world().is_first().then(|| without_nccl(places)) {
            Some(None) => {
                let PeerId(id) = Peers::new_id(device).map_err(KernelError::from)?;
                Way::Nccl { id: id.to_vec() }
            }
            Some(Some(why)) => Way::ThroughHost { why },
            // Not looked at.
            None => Way::ThroughHost { why: String::new() },
        };
        let id = match broadcast_json(ranks, way)? {
            Way::ThroughHost { why } => return Ok((Self::default(), Some(why))),
            Way::Nccl { id } => id,
        };
        let World { rank, size } = ranks.world();
        let id: [u8; PeerId::BYTES] = id.try_into().map_err(|_| RankError::Failed {
            rank,
            message: "rank 0 has sent no id of NCCL's".to_owned(),
        })?;
        let is_lost = || ranks.failure().is_some();
        let peers = Peers::join(device, &PeerId(id), Member { rank, size }, &is_lost);
        match peers {
            Ok(peers) => Ok((
                Self {
                    peers: Some(peers),
                    packed: Vec::new(),
                },
                None,
            )),
            Err(error) => Err(reason(ranks, error.into())),
        }
    }

    /// Replaces a gradient by its sum over all ranks: the same bits on each of them.
    pub(crate) fn sum(
        &mut self,
        gradient: &mut AdapterGradient,
        ranks: &mut dyn Collective,
    ) -> Result<(), TrainError> {
        match &mut self.peers {
            Some(peers) => {
                let mut tensors: Vec<&mut Tensor> = gradient.tensors_mut().collect();
                let summed = peers.sum(&mut tensors, &|| ranks.failure().is_some());
                summed.map_err(|error| reason(ranks, error))
            }
            None => {
                pack(gradient, &mut self.packed)?;
                ranks.sum_values(&mut self.packed)?;
                Ok(unpack(&self.packed, gradient)?)
            }
        }
    }
}

/// What has gone wrong: that a rank is lost where that is so, since NCCL's own words only follow from it.
fn reason(ranks: &dyn Collective, error: KernelError) -> TrainError {
    let until = Instant::now() + FOR_THE_REASON;
    loop {
        if let Some(failure) = ranks.failure() {
            return failure.into();
        }
        if Instant::now() >= until {
            return error.into();
        }
        sleep(Duration::from_millis(10));
    }
}

/// All values of a gradient, in the order of its tensors.
pub(crate) fn pack(gradient: &AdapterGradient, packed: &mut Vec<f32>) -> Result<(), KernelError> {
    packed.resize(gradient.tensors().map(Tensor::len).sum(), 0.0);
    let mut rest = &mut packed[..];
    for tensor in gradient.tensors() {
        let (values, behind) = rest.split_at_mut(tensor.len());
        tensor.read(values)?;
        rest = behind;
    }
    Ok(())
}

/// The other way.
pub(crate) fn unpack(
    mut packed: &[f32],
    gradient: &mut AdapterGradient,
) -> Result<(), KernelError> {
    for tensor in gradient.tensors_mut() {
        let (values, rest) = packed.split_at(tensor.len());
        tensor.write(values)?;
        packed = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str) -> Place {
        Place {
            name: "H100".to_owned(),
            is_device: true,
            uuid: Some(uuid.to_owned()),
            has_gradient: true,
            nccl: Ok("2.27.5".to_owned()),
        }
    }

    #[test]
    fn devices_that_ranks_share_are_found() {
        let emulated = Place {
            uuid: None,
            ..gpu("")
        };
        let places = [gpu("a"), gpu("b"), gpu("a"), emulated.clone(), emulated];
        let expected = Shared {
            ranks: vec![0, 2],
            device: "H100".to_owned(),
        };
        assert_eq!(shared(&places), [expected]);
    }

    #[test]
    fn what_keeps_nccl_away_is_named() {
        let with = |change: fn(&mut Place)| {
            let mut places = [gpu("a"), gpu("b")];
            change(&mut places[1]);
            without_nccl(&places)
        };
        assert_eq!(with(|_| ()), None);
        let says = |change, expected: &str| assert_eq!(with(change).unwrap(), expected);
        says(
            |place| place.nccl = Err("NCCL: not found".to_owned()),
            "on rank 1, NCCL: not found",
        );
        says(
            |place| place.nccl = Ok("2.26.2".to_owned()),
            "rank 1 has NCCL 2.26.2, and rank 0 2.27.5",
        );
        says(
            |place| place.uuid = Some("a".to_owned()),
            "ranks share a GPU, which NCCL does not allow",
        );
        says(
            |place| place.has_gradient = false,
            "`train.optimizer` keeps its state in host memory",
        );
    }

    #[test]
    fn another_kind_of_place_is_named() {
        let cpu = Place {
            name: "the CPU".to_owned(),
            is_device: false,
            ..gpu("")
        };
        assert_eq!(gpu("b").check_kind(1, &gpu("a")), Ok(()));
        assert_eq!(
            cpu.check_kind(1, &gpu("a")).unwrap_err().to_string(),
            "rank 1 runs on the CPU, and rank 0 on H100"
        );
    }
}
