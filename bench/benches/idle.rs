//! What an owner of queues costs that has nothing to do: processor time of its thread, of the time that passed.
//!
//! `cargo bench --bench idle`. Not criterion's kind of figure: there is no work to divide by.

use std::time::{Duration, Instant};

use stillwire_dma::PciFunction;
use stillwire_driver::{Config, Nic};
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{LocalDevice, ixgbe};

fn main() {
    let device = LocalDevice::new(ixgbe::Model::new(ixgbe::Config::default(), Box::new(Loopback::new())));
    let _running = device.spawn();
    let function = PciFunction::from_backend(device);
    let nic = Nic::open(function, Config { interrupts: true, ..Config::default() }).expect("the model opens");
    let (mut tx, mut rx) = (nic.tx_queue::<()>().expect("a queue"), nic.rx_queue().expect("a queue"));
    println!("an owner with nothing to do, {} s each: share of a processor", TIME.as_secs());
    for (name, waits) in [("polls", false), ("waits, and looks ten times a second", true)] {
        let (start, cpu) = (Instant::now(), cpu_time());
        let mut looks = 0u64;
        while start.elapsed() < TIME {
            tx.reclaim(drop);
            rx.poll(64, |_| {});
            looks += 1;
            if waits {
                rx.wait(&mut tx, Duration::from_millis(100)).expect("it waits");
            }
        }
        let share = (cpu_time() - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("{name:40} {:8.3} % ({looks} looks)", share * 100.0);
    }
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const TIME: Duration = Duration::from_secs(3);
