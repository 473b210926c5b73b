"""What `[filesystem] base = true` grants, and what of it is a secret. Pure data: none of it need exist.

A path is here because ordinary programs (shells, compilers, Python, Node.js, git, locale and time zone,
certificates) fail or misbehave without it, and because it holds nothing of one user's. Not here: /opt,
/srv, /var, /home, /run, /sys as trees, and /proc, which is never granted by path.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

RULE: Final = "base"
SECRETS_RULE: Final = "base.secrets"

# Read and execute, with all beneath.
TREES: Final = (
    b"/usr",
    b"/bin",
    b"/sbin",
    b"/lib",
    b"/lib32",
    b"/lib64",
    b"/libx32",
    b"/etc",
    b"/nix/store",  # NixOS and Guix keep there what others have in /usr
    b"/gnu/store",
)

# Read only.
DATA: Final = (
    b"/run/systemd/resolve",  # /etc/resolv.conf leads there
    b"/run/resolvconf/resolv.conf",
    b"/run/NetworkManager/resolv.conf",  # the file alone: connections with their keys lie beside it
    b"/run/NetworkManager/no-stub-resolv.conf",
    b"/var/lib/ca-certificates",  # /etc/ssl/certs leads there on SUSE
    b"/sys/devices/system/cpu",  # how many processors: glibc, Go, Node.js
    b"/sys/devices/system/node",
    b"/sys/kernel/mm/transparent_hugepage",  # Go, jemalloc
)

# Read and write: devices that hold nothing.
DEVICES: Final = (b"/dev/null", b"/dev/zero", b"/dev/full", b"/dev/random", b"/dev/urandom", b"/dev/tty")

# Secrets within the trees, with all beneath. Most are readable by root only; sandlockd may well run as root.
SECRETS: Final = (
    # accounts
    b"/etc/shadow",
    b"/etc/shadow-",
    b"/etc/gshadow",
    b"/etc/gshadow-",
    b"/etc/master.passwd",
    b"/etc/security/opasswd",
    b"/etc/sudoers",
    b"/etc/sudoers.d",
    b"/etc/doas.conf",
    b"/etc/.git",  # etckeeper's copies of all of these
    b"/etc/krb5.keytab",
    b"/etc/sssd",
    b"/etc/nslcd.conf",
    b"/etc/ldap.secret",
    b"/etc/libnss-ldap.secret",
    b"/etc/pam_ldap.secret",
    # keys
    b"/etc/ssl/private",
    b"/etc/pki/tls/private",
    b"/etc/pki/CA/private",
    b"/etc/pki/nssdb",
    b"/etc/letsencrypt",
    b"/etc/cryptsetup-keys.d",
    b"/etc/luks-keys",
    b"/etc/credstore",
    b"/etc/credstore.encrypted",
    b"/etc/dovecot/private",
    b"/etc/bind/rndc.key",
    b"/etc/rndc.key",
    # networks
    b"/etc/NetworkManager/system-connections",
    b"/etc/netplan",
    b"/etc/wireguard",
    b"/etc/openvpn",
    b"/etc/ipsec.secrets",
    b"/etc/ipsec.d/private",
    b"/etc/swanctl",
    b"/etc/wpa_supplicant",
    b"/etc/ppp",
    b"/etc/chatscripts",
    b"/etc/raddb",
    b"/etc/freeradius",
    b"/etc/iscsi",
    # services
    b"/etc/docker",
    b"/etc/containers/auth.json",
    b"/etc/kubernetes",
    b"/etc/rancher",
    b"/etc/apt/auth.conf",
    b"/etc/apt/auth.conf.d",
    b"/etc/mysql/debian.cnf",
    b"/etc/postfix/sasl_passwd",
    b"/etc/postfix/sasl_passwd.db",
    b"/etc/exim4/passwd.client",
    b"/etc/msmtprc",
    b"/etc/ssmtp",
    b"/etc/davfs2/secrets",
    b"/etc/samba/smbpasswd",
    b"/etc/samba/credentials",
    b"/etc/cups/ssl",
)

# The same by pattern: a directory, and a pattern for one name in it, as fnmatch has it.
SECRET_PATTERNS: Final = (
    (b"/etc/ssh", b"ssh_host_*_key"),
    (b"/etc", b"shadow.*"),
    (b"/etc", b"shadow~"),
    (b"/etc", b"krb5*.keytab"),
    (b"/etc/ceph", b"*.keyring"),
)
