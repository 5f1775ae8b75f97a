//! A process of a job that `mpirun` has started. The first process alone prints and writes; the others follow it.

use super::interrupt::{Interrupt, Signal};
use super::output::set_silent;
use super::print_error;
use std::sync::Arc;
use std::time::Duration;
use wgoal::cluster::{self, Alone, Communicator, SLICES};
use wgoal::device::DeviceKind;
use wgoal::{Device, Error, ErrorKind, Result, TrainConfig, Trainer};

/// The variables in which launchers give the number of processes and that of this process: Open MPI, then MPICH, Intel MPI
/// and Slurm.
const LAUNCHERS: [[&str; 2]; 2] =
    [["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"], ["PMI_SIZE", "PMI_RANK"]];

/// How long a process waits before it reports an error, so that the first process can report the same one.
const PATIENCE: Duration = Duration::from_millis(500);

/// The processes that do the work of a command together.
pub struct Job {
    ranks: Arc<dyn Communicator>,
    /// Whether a launcher has started this process.
    is_launched: bool,
}

impl Job {
    /// A process without others.
    pub fn alone() -> Self {
        Self { ranks: Arc::new(Alone), is_launched: false }
    }

    /// The job of this process. Processes other than the first become silent. If the command is not `divided` among the
    /// processes, the first does all of it, on all cores.
    ///
    /// # Errors
    /// Several processes without the feature `mpi`, or a failure of MPI.
    pub fn find(divided: bool) -> Result<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<usize>().ok();
        let launched = LAUNCHERS.iter().find_map(|[size, rank]| Some([number(size)?, number(rank)?]));
        let Some([size, rank]) = launched else {
            return match std::env::var_os("PMIX_RANK") {
                Some(_) => Self::join(0, divided),
                None => Ok(Self::alone()),
            };
        };
        set_silent(rank > 0);
        Self::join(size, divided)
    }

    #[cfg(feature = "mpi")]
    fn join(_: usize, divided: bool) -> Result<Self> {
        let ranks = cluster::Mpi::join()?;
        set_silent(ranks.rank() > 0);
        let [_, here] = ranks.local();
        if divided && here > 1 && std::env::var_os("RAYON_NUM_THREADS").is_none() {
            // The processes of a machine share its cores.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let pool = rayon::ThreadPoolBuilder::new().num_threads((cores / here).max(1));
            // It is an error only if there is a pool already, which then serves.
            let _ = pool.build_global();
        }
        Ok(Self { ranks: Arc::new(ranks), is_launched: true })
    }

    #[cfg(not(feature = "mpi"))]
    fn join(size: usize, _: bool) -> Result<Self> {
        if size <= 1 {
            return Ok(Self::alone());
        }
        let (expected, found) = ("a wgoal that was built with the feature mpi", "one without it");
        let advice = "build it with `cargo build --release --features mpi`, or start one process";
        Err(Error::new(ErrorKind::Config, format!("mpirun with {size} processes"), expected, found, advice))
    }

    /// Runs the work of this process. If it fails, one process prints the error, and all processes end.
    pub fn run(self, work: impl FnOnce(&Self) -> Result<u8>) -> Result<u8> {
        let work = |job: &Self| {
            let code = work(job)?;
            // A process that still waits for others would wait for ever.
            cluster::end(&*job.ranks).map(|()| code)
        };
        match super::start_threads().and_then(|()| work(&self)) {
            Err(error) if self.size() > 1 => {
                let rank = self.ranks.rank();
                if rank > 0 {
                    // If the first process has failed as well, it ends this one in the meantime.
                    std::thread::sleep(PATIENCE + Duration::from_millis(100) * rank as u32);
                    set_silent(false);
                    always!("note: process {rank} of {} has failed", self.size());
                }
                Ok(self.ranks.abort(print_error(&error)))
            }
            done => done,
        }
    }

    /// [`Job::run`] of a command that the first process does alone.
    pub fn run_first(self, work: impl FnOnce() -> Result<()>) -> Result<u8> {
        self.run(|job| if job.is_first() { work().map(|()| 0) } else { Ok(0) })
    }

    /// What joins the processes.
    pub fn ranks(&self) -> Arc<dyn Communicator> {
        self.ranks.clone()
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.ranks.size()
    }

    /// Whether this process prints and writes.
    pub fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// The configuration of a new run. A job divides its batches.
    pub fn divided(&self, config: TrainConfig) -> TrainConfig {
        let slices = if self.is_launched && config.slices == 0 { SLICES } else { config.slices };
        config.with(|c| c.slices = slices)
    }

    /// The same device for work that the processes divide: all of them call the same functions with it. They must compute
    /// on devices of the same make, unless they may be `mixed`; `None` if that cannot be allowed.
    ///
    /// # Errors
    /// Devices of different makes.
    pub fn share_work(&self, device: &Device, mixed: Option<bool>) -> Result<Device> {
        self.check_makes(device, mixed)?;
        Ok(device.with_ranks(self.ranks.clone()))
    }

    /// Shares a run among the processes.
    ///
    /// # Errors
    /// A resumed run without slices, and those of [`Trainer::share`].
    pub fn share(&self, trainer: &mut Trainer) -> Result<()> {
        if trainer.config().slices == 0 {
            if self.size() == 1 {
                return Ok(());
            }
            let (expected, found) = ("a run with --slices, which several processes can share", "one without");
            let advice = "continue it with one process, without mpirun";
            return Err(Error::new(ErrorKind::Config, "--resume", expected, found, advice));
        }
        trainer.share(self.ranks.clone())
    }

    /// The error of an ensemble in a job.
    pub fn refuses_ensemble(&self, count: usize) -> Error {
        let expected = format!("1 in a job of {} processes", self.size());
        Error::new(
            ErrorKind::Config,
            "--ensemble",
            expected,
            count,
            "train it in one process, without mpirun",
        )
    }

    /// The signal that a process of the job has received.
    pub fn signal(&self, interrupt: &Interrupt) -> Result<Option<Signal>> {
        let own = Signal::number(interrupt.signal());
        Ok(Signal::of(cluster::largest(&*self.ranks, own)?))
    }

    /// Opens the device that `request` names. In a job, names separated by commas are those of the processes of a machine,
    /// in turn; and of several equal GPUs, each process takes the next.
    pub fn open(&self, request: &str) -> Result<Device> {
        let [place, here] = self.ranks.local();
        if self.size() == 1 {
            return Device::open(request);
        }
        let names: Vec<_> = request.split(',').collect();
        if names.len() > 1 {
            return Device::open(names[place % names.len()]);
        }
        let device = Device::open(request)?;
        let own = device.info();
        if here == 1 || !["auto", "gpu"].contains(&request) || !is_hardware(own.kind) {
            return Ok(device);
        }
        let alike = |kind, backend: &str| (kind, backend) == (own.kind, own.backend.as_str());
        let all = Device::list().into_iter().filter(|info| alike(info.kind, &info.backend));
        let mut equal: Vec<_> = all.map(|info| info.index).collect();
        // The best comes first, so that one process takes what it would take alone.
        equal.sort_by_key(|&index| index != own.index);
        match equal.get(place % equal.len().max(1)) {
            Some(&index) if index != own.index => Device::open(&index.to_string()),
            _ => Ok(device),
        }
    }

    /// Checks that all processes compute on devices of the same make, unless they may be `mixed`.
    pub fn check_makes(&self, device: &Device, mixed: Option<bool>) -> Result<()> {
        let info = device.info();
        let own = match info.kind {
            DeviceKind::Cpu => "the CPU".to_string(),
            _ => format!("{} ({}, {})", info.name, info.backend, info.driver),
        };
        let makes = cluster::texts(&*self.ranks, &own)?;
        match makes.iter().position(|make| *make != makes[0]) {
            Some(other) if mixed != Some(true) => {
                let expected = format!("devices of one make, as {} of process 0", makes[0]);
                let found = format!("{} of process {other}", makes[other]);
                let advice = match mixed {
                    Some(_) => "name the devices with --device, or add --mixed, which gives other rounding",
                    None => "name devices of one make with --device",
                };
                Err(Error::new(ErrorKind::Config, "--device", expected, found, advice))
            }
            _ => Ok(()),
        }
    }
}

/// Whether it is a GPU, of which a machine may have several.
fn is_hardware(kind: DeviceKind) -> bool {
    !matches!(kind, DeviceKind::Cpu | DeviceKind::Software)
}
