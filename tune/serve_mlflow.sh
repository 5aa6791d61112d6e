#!/usr/bin/env bash
# Run the MLflow server of a cluster's head at 127.0.0.1:5000, restarting it when it ends. A second call does nothing.
#
# Its database is MLFLOW_BACKEND_STORE_URI, e.g. postgresql://user:password@host/name, which mlflow.env in the project's
# folder can set. Default: ~/mlflow.db on the head's own disk, because sqlite does not work on NFS. Artifacts go to the
# folder that all machines share.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -f mlflow.env ]; then . ./mlflow.env; fi
# no background jobs: they serve GenAI evaluations and use a dozen processes
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:///$HOME/mlflow.db}"
MLFLOW="$PWD/.venv/bin/mlflow"

serve() {
    while true; do
        "$MLFLOW" server --host 127.0.0.1 --port 5000 --workers 2 --artifacts-destination "${RME_SHARED:-/mnt/rme}/mlartifacts" || true
        sleep 5
    done
}

if [ "${1:-}" = serve ]; then
    serve
else
    setsid nohup flock --nonblock ~/.mlflow.lock bash "$PWD/tune/serve_mlflow.sh" serve >> ~/mlflow.log 2>&1 < /dev/null &
    for _ in $(seq 120); do
        sleep 1
        if python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:5000/health", timeout=5)' 2> /dev/null; then
            echo "MLflow is at 127.0.0.1:5000 of this machine"
            exit 0
        fi
    done
    echo "MLflow did not start:"; tail -20 ~/mlflow.log; exit 1
fi
