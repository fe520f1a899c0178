//! The guest: its programs, its modules, and the archive that the kernel unpacks at its start.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the shared objects and the loader of the fetched tree are.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The tree's dynamic loader.
pub const LOADER: &str = "ld-linux-x86-64.so.2";
const TARGET: &str = "x86_64-unknown-linux-gnu";
const INIT: &str = include_str!("../../guest/init.sh");

/// Programs that are linked statically, so that they run in the guest and on the host.
pub struct Programs {
    folder: PathBuf,
    /// What the stock `ice` driver loads into its device.
    pub firmware: Option<PathBuf>,
}

impl Programs {
    /// Builds them under `target`.
    pub fn build(root: &Path, target: &Path) -> Result<Self, String> {
        let target = target.join("guest");
        let packages = [
            &["-p", "stillwire-examples", "--examples"][..],
            &["-p", "stillwire-emulator", "--bins"],
            &["-p", "stillwire-xtask", "--bins"],
        ];
        for package in packages {
            let status = Command::new("cargo")
                .args(["build", "--quiet", "--release", "--target", TARGET])
                .args(package)
                .env("CARGO_TARGET_DIR", &target)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
                .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
                .current_dir(root)
                .status();
            if !status.is_ok_and(|status| status.success()) {
                return Err(format!("the guest's programs cannot be built: cargo build {} failed", package.join(" ")));
            }
        }
        Ok(Self { folder: target.join(TARGET).join("release"), firmware: None })
    }

    /// Where they were built before.
    pub fn built(target: &Path, firmware: Option<PathBuf>) -> Self {
        Self { folder: target.join("guest").join(TARGET).join("release"), firmware }
    }

    pub fn emulator(&self) -> PathBuf {
        self.folder.join("stillwire-emulator")
    }

    pub fn receive(&self) -> PathBuf {
        self.folder.join("examples/receive")
    }

    fn of_guest(&self) -> [(&'static str, PathBuf); 5] {
        [
            ("send", "examples/send"),
            ("receive", "examples/receive"),
            ("info", "examples/info"),
            ("xtask", "stillwire-xtask"),
            ("stillwire-emulator", "stillwire-emulator"),
        ]
        .map(|(name, path)| (name, self.folder.join(path)))
    }
}

/// The kernel of the tree and its modules.
pub struct Kernel {
    folder: PathBuf,
    busybox: PathBuf,
    /// Module name (with `_`) → its compressed file.
    files: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// The newest kernel in the tree.
    pub fn find(tree: &Path) -> Result<Self, String> {
        let modules = tree.join("usr/lib/modules");
        let mut found: Vec<PathBuf> =
            fs::read_dir(&modules).into_iter().flatten().flatten().map(|e| e.path()).collect();
        found.retain(|folder| folder.join("vmlinuz").exists());
        found.sort();
        let folder = found.pop().ok_or_else(|| {
            format!("no kernel in {}; remove the folder above it to have it fetched again", modules.display())
        })?;
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files);
        Ok(Self { folder, busybox: tree.join("usr/bin/busybox"), files })
    }

    pub fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The version, as its folder is named.
    pub fn version(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Unpacks `wanted` and what they need into `into`; returns their names in the order in which they must be loaded.
    fn modules(&self, wanted: &[&str], into: &Path) -> Result<Vec<String>, String> {
        let mut order = Vec::new();
        for module in wanted {
            self.module(module, into, &mut order)?;
        }
        Ok(order)
    }

    fn module(&self, name: &str, into: &Path, order: &mut Vec<String>) -> Result<(), String> {
        let name = name.replace('-', "_");
        if order.contains(&name) {
            return Ok(());
        }
        let to = into.join(format!("{name}.ko"));
        let bytes = match fs::read(&to) {
            Ok(bytes) => bytes,
            Err(_) => self.unpack(&name, &to)?,
        };
        for needed in depends(&bytes) {
            self.module(&needed, into, order)?;
        }
        order.push(name);
        Ok(())
    }

    fn unpack(&self, name: &str, to: &Path) -> Result<Vec<u8>, String> {
        let from = self.files.get(name).ok_or_else(|| format!("kernel {} has no module {name}", self.version()))?;
        let output = Command::new(&self.busybox).args(["unxz", "-c"]).arg(from).output();
        let bytes = match output {
            Ok(output) if output.status.success() => output.stdout,
            _ => return Err(format!("{} cannot be unpacked", from.display())),
        };
        fs::write(to, &bytes).map_err(|error| format!("{}: {error}", to.display()))?;
        Ok(bytes)
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko.xz")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

/// What a module says that it needs: the file `modules.dep` is made by an installation, which this is not.
fn depends(module: &[u8]) -> Vec<String> {
    let tag = b"\0depends=";
    let Some(at) = module.windows(tag.len()).position(|window| window == tag) else { return Vec::new() };
    let list = module[at + tag.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Writes the archive for one scenario into `to`.
pub fn initramfs(tree: &Path, kernel: &Kernel, programs: &Programs, scenario: &str, to: &Path) -> Result<(), String> {
    let root = to.with_extension("root");
    // What is left of an earlier run must not get in.
    let _ = fs::remove_dir_all(&root);
    let error = |error: std::io::Error| format!("{}: {error}", root.display());
    for folder in ["bin", "sbin", "lib", "lib64", "modules"] {
        fs::create_dir_all(root.join(folder)).map_err(error)?;
    }
    copy(&tree.join("usr/bin/busybox"), &root.join("bin/busybox"))?;
    for (name, program) in programs.of_guest() {
        copy(&program, &root.join("bin").join(name))?;
    }
    copy_with_libraries(tree, &tree.join("usr/sbin/ethtool"), &root)?;
    let modules = root.join("modules");
    let stock = kernel.modules(&["ixgbe"], &modules)?.join(" ");
    let virtio = kernel.modules(&["virtio_net"], &modules)?.join(" ");
    let vlan = kernel.modules(&["8021q"], &modules)?.join(" ");
    let ice = kernel.modules(&["ice"], &modules)?.join(" ");
    if let Some(firmware) = &programs.firmware {
        copy(firmware, &root.join("ice.pkg"))?;
    }
    let vfio = kernel.modules(&["vfio_iommu_type1", "vfio_pci"], &modules)?.join(" ");
    let lists =
        format!("STOCK_MODULES='{stock}'\nVLAN_MODULES='{vlan}'\nVIRTIO_MODULES='{virtio}'\nICE_MODULES='{ice}'\n");
    let scenario = format!("{lists}VFIO_MODULES='{vfio}'\n{scenario}");
    fs::write(root.join("scenario.sh"), scenario).map_err(error)?;
    fs::write(root.join("init"), INIT).map_err(error)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.join("init"), mode).map_err(error)?;
    pack(&tree.join("usr/bin/busybox"), &root, to)
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

/// Copies a program of the tree, and what its loader says that it needs.
fn copy_with_libraries(tree: &Path, program: &Path, root: &Path) -> Result<(), String> {
    let libraries = tree.join(LIBRARIES);
    let loader = libraries.join(LOADER);
    copy(&loader, &root.join("lib64").join(LOADER))?;
    copy(program, &root.join("sbin").join(program.file_name().unwrap_or_default()))?;
    let output = Command::new(&loader).arg("--list").arg("--library-path").args([&libraries, program]).output();
    let output = output.map_err(|error| format!("{}: {error}", loader.display()))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((name, rest)) = line.trim().split_once(" => ") else { continue };
        let path = Path::new(rest.split(" (").next().unwrap_or(rest));
        if !name.starts_with('/') {
            copy(path, &root.join("lib").join(name))?;
        }
    }
    Ok(())
}

/// The tree's busybox packs, so that there is no need for cpio on the machine.
fn pack(busybox: &Path, root: &Path, to: &Path) -> Result<(), String> {
    let error = |error: std::io::Error| format!("{}: {error}", to.display());
    let file = fs::File::create(to).map_err(error)?;
    let mut cpio = Command::new(busybox)
        .args(["cpio", "--quiet", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .map_err(error)?;
    let mut names = String::new();
    list(root, root, &mut names);
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin.write_all(names.as_bytes()).map_err(error)?;
    }
    if cpio.wait().map_err(error)?.success() { Ok(()) } else { Err(format!("{}: busybox cpio failed", to.display())) }
}

/// Names of all files, each folder before what is in it.
fn list(root: &Path, folder: &Path, names: &mut String) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        names.push_str(&path.strip_prefix(root).unwrap_or(&path).to_string_lossy());
        names.push('\n');
        if path.is_dir() {
            list(root, &path, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_of_a_module() {
        assert_eq!(depends(b"\x7fELF\0license=GPL\0depends=dca,mdio\0name=ixgbe\0"), ["dca", "mdio"]);
        assert_eq!(depends(b"\0depends=\0"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
        assert_eq!(depends(b"\0depends=cut"), ["cut"]);
    }
}
