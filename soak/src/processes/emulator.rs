//! A process that is a device.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stillwire_emulator::server::Server;
use stillwire_emulator::wire::Loopback;
use stillwire_emulator::{DeviceModel, ice, ixgbe, virtio};

use super::end_with_the_parent;

/// Which, and where.
#[derive(clap::Args)]
pub struct Arguments {
    socket: PathBuf,
    model: String,
}

/// Serves one client after the other.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (socket, wire) = (&arguments.socket, Box::new(Loopback::new()));
    match arguments.model.as_str() {
        "ixgbe" => serve(socket, ixgbe::Model::new(ixgbe::Config::default(), wire)),
        "ice" => {
            let config = ice::Config { package: true, ..Default::default() };
            serve(socket, ice::Model::new(config, wire)?)
        }
        "virtio" => serve(socket, virtio::Model::new(virtio::Config::default(), wire)?),
        other => Err(format!("no model {other}").into()),
    }
}

fn serve<M: DeviceModel>(socket: &Path, model: M) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let server = Server::bind(socket, model)?;
    let stopper = server.stopper();
    end_with_the_parent(move || stopper.stop())?;
    println!("listening");
    server.serve(false)?;
    Ok(ExitCode::SUCCESS)
}
