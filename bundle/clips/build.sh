# source: apps/scenes
# Clips for the cameras of a local site: films of simulated junctions with their ground truth, and one real recording of
# a car park, an example in Debian's opencv-doc.
python -m pip install --quiet --no-deps --require-hashes --only-binary :all: \
  --target packages --requirement requirements.txt
export PYTHONPATH=$PWD/packages:$REPO/apps/scenes/src PYTHONDONTWRITEBYTECODE=1
# One thread per process: two films are drawn in parallel on two cores, so more threads would not help.
export OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1

printf '%s\n' busan-normal seoul-accident seoul-normal |
  xargs -P 2 -I {} python -m koren_scenes render {} "$OUT"

apt-get download --quiet opencv-doc
dpkg-deb --fsys-tarfile opencv-doc_*.deb |
  tar --extract --to-stdout ./usr/share/doc/opencv-doc/examples/data/vtest.avi >vtest.avi
echo '45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf  vtest.avi' | sha256sum --check --quiet
python -m koren_scenes encode vtest.avi "$OUT/vtest.mp4"
