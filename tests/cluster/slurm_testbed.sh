#!/bin/bash
# A Slurm of several "machines" on one, for tests; needs root, slurm-wlm, slurmdbd, mariadb-server, munge and iproute2.
#
#   slurm_testbed.sh up FOLDER PREFIX [NODES]     slurm_testbed.sh down FOLDER PREFIX
#   FOLDER/login COMMAND…                         runs COMMAND on the login node
#   CARDS, CPUS, MEMORY in the environment say what a node claims to have: 2, 8, 8000 MB where they are not given.
#
# The login node (10.98.0.10) runs the controller and the accounting; n1, n2, … (10.98.0.11, …) run slurmd. Each is a
# namespace of its own: network, host name, mounts, and for the nodes processes. They are joined by a bridge inside the
# login node's network, so nothing reaches the outside. Cards are the null device. PREFIX names the network namespaces:
# several beds can stand side by side. The folder is the shared file system, but for FOLDER/d: that is the node's own
# disk, which lies for everybody else in FOLDER/disk-n1, FOLDER/disk-n2, …. All else on this machine is shared, too.
set -eu
verb=$1 root=$2 prefix=$3 nodes=${4:-2} cards=${CARDS:-2}

down() {
    for file in "$root"/run/*.pid; do
        if [ -s "$file" ]; then kill -9 "$(cat "$file")" 2> /dev/null || true; fi
    done
    for namespace in $(ip netns list | awk '{print $1}' | grep -E "^$prefix[0-9]+$" || true); do
        for pid in $(ip netns pids "$namespace"); do kill -9 "$pid" 2> /dev/null || true; done
    done
    sleep 0.3
    for namespace in $(ip netns list | awk '{print $1}' | grep -E "^$prefix[0-9]+$" || true); do
        ip netns del "$namespace"
    done
}

network() {
    ip netns add "${prefix}0"
    ip -n "${prefix}0" link set lo up
    ip -n "${prefix}0" link add br0 type bridge
    ip -n "${prefix}0" addr add 10.98.0.10/24 dev br0
    ip -n "${prefix}0" link set br0 up
    printf '127.0.0.1 localhost\n10.98.0.10 login\n' > "$root/hosts"
    for i in $(seq "$nodes"); do
        ip netns add "$prefix$i"
        ip -n "$prefix$i" link set lo up
        ip -n "${prefix}0" link add "v$i" type veth peer name eth0 netns "$prefix$i"
        ip -n "${prefix}0" link set "v$i" master br0 up
        ip -n "$prefix$i" addr add "10.98.0.1$i/24" dev eth0
        ip -n "$prefix$i" link set eth0 up
        ip -n "$prefix$i" route add default via 10.98.0.10
        printf '10.98.0.1%s n%s\n' "$i" "$i" >> "$root/hosts"
    done
}

configure() {
    for k in $(seq 0 $((cards - 1))); do mknod "$root/card$k" c 1 3; done
    for i in $(seq "$nodes"); do
        mkdir -p "$root/spool-n$i" "$root/disk-n$i"
        echo "NodeName=n$i Name=gpu Type=l40s File=$root/card[0-$((cards - 1))]" >> "$root/gres.conf"
    done
    cat > "$root/slurm.conf" << EOF
ClusterName=testbed
SlurmctldHost=login(10.98.0.10)
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool-%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd-%n.own
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=10.98.0.10
AccountingStoragePass=$root/munge/socket
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=0
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=20
GresTypes=gpu
KillWait=30
JobRequeue=1
PartitionName=l40-gpu Nodes=ALL Default=YES MaxTime=11-00:00:00 DefaultTime=01:00:00 State=UP
EOF
    for i in $(seq "$nodes"); do
        echo "NodeName=n$i NodeAddr=10.98.0.1$i CPUs=${CPUS:-8} RealMemory=${MEMORY:-8000} Gres=gpu:l40s:$cards State=UNKNOWN" \
            >> "$root/slurm.conf"
    done
}

within_30_s() {
    for _ in $(seq 150); do "$@" > /dev/null 2>&1 && return || sleep 0.2; done
    echo "not within 30 s: $*; see $root/log" >&2
    return 1
}

# Accounts as Slurm keeps them: slurmdbd, and a MariaDB that listens on a socket only. There is one account, without limits.
accounting() {
    cat > "$root/mariadb.cnf" << EOF
[mariadbd]
user=root
datadir=$root/db
socket=$root/run/mariadb
skip-networking
innodb-buffer-pool-size=64M
innodb-log-file-size=8M
innodb-flush-log-at-trx-commit=0
EOF
    (umask 077; cat > "$root/slurmdbd.conf" << EOF
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket
DbdHost=login
DbdAddr=10.98.0.10
SlurmUser=root
LogFile=$root/log/slurmdbd.log
PidFile=$root/run/slurmdbd.own
StorageType=accounting_storage/mysql
StorageUser=root
EOF
    )
    mariadb-install-db --defaults-file="$root/mariadb.cnf" --auth-root-authentication-method=normal --skip-test-db \
        > "$root/log/mariadb.out" 2>&1
    mariadbd --defaults-file="$root/mariadb.cnf" >> "$root/log/mariadb.out" 2>&1 < /dev/null &
    echo $! > "$root/run/mariadbd.pid"
    within_30_s test -S "$root/run/mariadb"
    MYSQL_UNIX_PORT=$root/run/mariadb SLURMDBD_CONF=$root/slurmdbd.conf "$root/login" slurmdbd -D \
        > "$root/log/slurmdbd.out" 2>&1 < /dev/null &
    echo $! > "$root/run/slurmdbd.pid"
    within_30_s "$root/login" sacctmgr -i add cluster testbed
    "$root/login" sacctmgr -i add account lab >> "$root/log/sacctmgr.out"
    "$root/login" sacctmgr -i add user root account=lab defaultaccount=lab >> "$root/log/sacctmgr.out"
}

start_node() {    # nsenter, as `ip netns exec` mounts /sys anew and slurmd then finds no cgroups
    nsenter --net="/run/netns/$prefix$1" unshare --uts --mount --pid --fork --kill-child --mount-proc bash -c "
        hostname n$1; mount --bind $root/hosts /etc/hosts; mount --bind $root/disk-n$1 $root/d
        slurmd -f $root/slurm.conf -N n$1; exec sleep infinity" > "$root/log/n$1.out" 2>&1 < /dev/null &
    echo $! > "$root/run/n$1.pid"
}

up() {
    mkdir -p "$root"/{state,log,munge,run,d}
    chmod 755 "$root" "$root/munge"
    (umask 077; head -c 1024 /dev/urandom > "$root/munge/key")
    munged --force --key-file="$root/munge/key" --socket="$root/munge/socket" --pid-file="$root/run/munged.pid" \
        --log-file="$root/munge/log" --seed-file="$root/munge/seed"
    network
    configure
    export SLURM_CONF=$root/slurm.conf
    cat > "$root/login" << EOF
#!/bin/bash
export SLURM_CONF=$root/slurm.conf
exec nsenter --net=/run/netns/${prefix}0 unshare --uts --mount bash -c \
    'hostname login; mount --bind $root/hosts /etc/hosts; exec "\$@"' login "\$@"
EOF
    chmod +x "$root/login"
    accounting
    "$root/login" slurmctld -D > "$root/log/controller.out" 2>&1 < /dev/null &
    for i in $(seq "$nodes"); do start_node "$i"; done
}

case $verb in
    up) up ;;
    down) down ;;
    node) export SLURM_CONF=$root/slurm.conf; start_node "$nodes" ;;    # start node number NODES again
    *) echo "usage: $0 up|down FOLDER PREFIX [NODES]" >&2; exit 2 ;;
esac
