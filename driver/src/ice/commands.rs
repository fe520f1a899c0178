//! Admin commands that this driver gives, and the firmware's words for what went wrong (Linux `ice_adminq_cmd.h`).

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Op {
    pub code: u16,
    pub name: &'static str,
}

/// Makes one constant a line: `NAME code "name";`
macro_rules! commands {
    ($($name:ident $code:literal $text:literal;)*) => {
        $(pub(super) const $name: Op = Op { code: $code, name: $text };)*
    };
}

commands! {
    GET_VERSION       0x0001 "get version";
    DRIVER_VERSION    0x0002 "driver version";
    QUEUE_SHUTDOWN    0x0003 "queue shutdown";
    REQUEST_RESOURCE  0x0008 "request resource";
    RELEASE_RESOURCE  0x0009 "release resource";
    FUNCTION_CAPS     0x000A "function capabilities";
    MAC_READ          0x0107 "manage MAC, read";
    CLEAR_PXE         0x0110 "clear PXE mode";
    SWITCH_CONFIG     0x0200 "get switch configuration";
    GET_VLAN_MODE     0x020D "get VLAN mode";
    ADD_VSI           0x0210 "add VSI";
    ADD_RULES         0x02A0 "add switch rules";
    REMOVE_RULES      0x02A2 "remove switch rules";
    CLEAR_PF          0x02A4 "clear PF configuration";
    DEFAULT_TOPOLOGY  0x0400 "get default scheduler topology";
    ADD_NODES         0x0401 "add scheduler elements";
    DELETE_NODES      0x040F "delete scheduler elements";
    SCHEDULER_LIMITS  0x0412 "query scheduler resources";
    PHY_CAPS          0x0600 "get PHY capabilities";
    SET_PHY           0x0601 "set PHY configuration";
    SET_MAC           0x0603 "set MAC configuration";
    RESTART_AN        0x0605 "set up link and restart auto-negotiation";
    LINK_STATUS       0x0607 "get link status";
    EVENT_MASK        0x0613 "set event mask";
    SET_RSS_KEY       0x0B02 "set RSS key";
    SET_RSS_TABLE     0x0B03 "set RSS look-up table";
    ADD_TX_QUEUES     0x0C30 "add TX queues";
    DISABLE_TX_QUEUES 0x0C31 "disable TX queues";
    DOWNLOAD_PACKAGE  0x0C40 "download package";
    PACKAGE_LIST      0x0C43 "get package info list";
}

/// What an error code means. Firmware puts a number of its own into the high byte, which says nothing here.
pub(super) fn meaning(code: u8) -> &'static str {
    match code {
        EPERM => "EPERM, not permitted",
        2 => "ENOENT, there is none",
        3 => "ESRCH, no such command",
        4 => "EINTR, interrupted",
        5 => "EIO, an access failed",
        6 => "ENXIO, no such resource",
        7 => "E2BIG, too long",
        8 => "EAGAIN, to be tried again",
        9 => "ENOMEM, no memory left",
        10 => "EACCES, not allowed",
        11 => "EFAULT, a wrong address",
        EBUSY => "EBUSY, somebody else has it",
        EEXIST => "EEXIST, it is there already",
        14 => "EINVAL, a wrong argument",
        15 => "ENOTTY, not of this kind",
        16 => "ENOSPC, none left",
        17 => "ENOSYS, not implemented",
        18 => "ERANGE, an argument out of range",
        19 => "EFLUSHED, dropped after an earlier failure",
        20 => "BAD_ADDR, a descriptor with a wrong address",
        21 => "EMODE, not in this mode",
        22 => "EFBIG, too big",
        23 => "ESBCOMP, the sideband failed",
        ENOSEC => "ENOSEC, no manifest",
        EBADSIG => "EBADSIG, a wrong signature",
        26 => "ESVN, too old a security version",
        27 => "EBADMAN, a manifest with a wrong hash",
        28 => "EBADBUF, a buffer with a wrong hash",
        29 => "EACCES_BMCU, the management controller is being updated",
        _ => "no code that is known",
    }
}

pub(super) const EPERM: u8 = 1;
pub(super) const EBUSY: u8 = 12;
pub(super) const EEXIST: u8 = 13;
pub(super) const ENOSEC: u8 = 24;
pub(super) const EBADSIG: u8 = 25;
