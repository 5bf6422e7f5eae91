#!/usr/bin/env bash
# A small data release, from community-processed images to checked and published files.
#
#     bash commands.sh WORK_FOLDER            # a simulated patch of two bricks, minutes
#     LEGACY_SURVEY_DIR=/my/survey bash commands.sh WORK_FOLDER     # your own images
#
# WORK_FOLDER gets everything that is made; run again, the script goes on where it stopped.
# Settings are at the top; each step is one or two commands that can be typed by hand.
set -euo pipefail

WORK=$(mkdir -p "${1:?usage: commands.sh WORK_FOLDER}" && cd "$1" && pwd)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORKERS=${WORKERS:-2}                  # tasks at the same time
THREADS=${THREADS:-1}                  # threads of one brick
NAME=${NAME:-example}                  # word of the release in names of files
SIZE=${SIZE:-tiny}                     # of the simulated patch: tiny or small
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=1
export SKYMILL_QUEUE_DB=${SKYMILL_QUEUE_DB:-$WORK/queues.sqlite3}

cd "$WORK"

# -- 0. Images: your own survey folder, or a simulated one without any calibration --------------
if [ -z "${LEGACY_SURVEY_DIR:-}" ]; then
    "$PYTHON" "$HERE/make_patch.py" "$WORK/patch" --size "$SIZE" --processes "$WORKERS"
    export LEGACY_SURVEY_DIR=$WORK/patch/survey
    ZOOMS=$WORK/patch/zooms.txt        # only this part of each brick has images
    CUTS=${CUTS:---nmatch 5}           # its small CCDs have fewer than 20 photometric stars
fi
REGION=${REGION:---min-ra 150.0 --max-ra 150.5 --min-dec 1.9 --max-dec 2.4}
RELEASE=$WORK/release
mkdir -p "$WORK/scripts" "$WORK/zpts" "$RELEASE"

# -- 1. Image list: one line an image, doubles and dates sorted out -----------------------------
skymill release images "$LEGACY_SURVEY_DIR/images" --camera decam > decam_images.txt

# -- 2. Zero points, with the PSF and sky of each CCD; one task an image ------------------------
cat > scripts/zeropoints.sh <<'SCRIPT'
#!/usr/bin/env bash
set -euo pipefail
skymill release zeropoints --camera decam --image "$1" --outdir "$ZPTS" \
    --psf --splinesky --run-calibs
SCRIPT
chmod +x scripts/zeropoints.sh
export ZPTS=$WORK/zpts
skymill queue load "zpts-$NAME" decam_images.txt
skymill queue recover "zpts-$NAME"     # after a killed run; does nothing the first time
skymill queue retry "zpts-$NAME"       # after a failure
skymill queue launch "zpts-$NAME" "$WORKERS" --cores-per-worker 1 --walltime 04:00:00 \
    --script "$WORK/scripts/zeropoints.sh"
skymill queue list

# -- 3. One table of CCDs, one file of calibrations an exposure ---------------------------------
find "$WORK/zpts" -name '*-legacypipe.fits' | sort > done_zpt.txt
find "$WORK/zpts" -name '*-annotated.fits' | sort > done_annotated.txt
skymill release merge-zeropoints --file-list done_zpt.txt --cut-expnum --outname merged_zpt.fits
skymill release merge-zeropoints --file-list done_annotated.txt --cut-expnum \
    --outname "ccds-annotated-$NAME.fits"
# shellcheck disable=SC2086
skymill release survey-ccds --ccds merged_zpt.fits ${CUTS:-} \
    --outname "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.fits.gz"
skymill release merge-calibs --ccds "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.fits.gz" --continue

# -- 4. Bricks that have images -----------------------------------------------------------------
# shellcheck disable=SC2086
skymill release bricks --touching $REGION > bricks.txt
if [ -n "${ZOOMS:-}" ]; then           # of the simulated patch: those that it covers
    grep -wf <(cut -d' ' -f1 "$ZOOMS") bricks.txt > covered.txt && mv covered.txt bricks.txt
fi

# -- 5. Depth cut: leave out images that no brick needs; then the final table with its tree -----
skymill release depth-cut --brick-list bricks.txt --outdir depthcut --skip
skymill release depth-cut --outdir depthcut --collect depthcut.fits
rm -f "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.fits.gz"
skymill release survey-ccds --ccds depthcut.fits --no-cuts \
    --outname "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.kd.fits"
cp "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.kd.fits" "ccds-annotated-$NAME.fits" "$RELEASE/"

# -- 6. The bricks: detection, joint fit of all exposures, catalogues, coadds --------------------
cat > scripts/brick.sh <<'SCRIPT'
#!/usr/bin/env bash
set -euo pipefail
brick=$1 bri=${1:0:3} zoom=()
if [ -n "${ZOOMS:-}" ]; then
    zoom=(--zoom $(grep -w "$brick" "$ZOOMS" | cut -d' ' -f2-))
fi
mkdir -p "$RELEASE/logs/$bri"
skymill release brick "$brick" --outdir "$RELEASE" --skip --skip-calibs --threads "$THREADS" \
    --ebv 0.0 "${zoom[@]}" >> "$RELEASE/logs/$bri/$brick.log" 2>&1
SCRIPT
chmod +x scripts/brick.sh
export RELEASE THREADS ZOOMS=${ZOOMS:-}
skymill queue load "$NAME" bricks.txt
skymill queue list
skymill queue launch "$NAME" "$WORKERS" --cores-per-worker "$THREADS" --walltime 48:00:00 \
    --script "$WORK/scripts/brick.sh" || true
skymill queue tasks "$NAME"

# What a killed job leaves is put back; what failed may be tried again; then launch once more.
skymill queue recover "$NAME"
skymill queue retry "$NAME"
skymill queue launch "$NAME" "$WORKERS" --cores-per-worker "$THREADS" --walltime 48:00:00 \
    --script "$WORK/scripts/brick.sh"
skymill queue clean "$NAME" --outdir "$RELEASE"

# -- 7. After the bricks ------------------------------------------------------------------------
skymill release neighbours "$RELEASE" --bricks bricks.txt
skymill release depth-histogram "$RELEASE" --name "survey-$NAME" --bricks bricks.txt --plot
skymill release brick-summary "$RELEASE" -o "$RELEASE/survey-bricks-$NAME.fits.gz" \
    --bricks bricks.txt --plot
skymill release sweeps "$RELEASE" --number 9 --bricks bricks.txt

# An external catalogue row by row; here the Gaia stars of the survey folder itself.
EXTERNAL=${EXTERNAL:-$(find "$LEGACY_SURVEY_DIR/gaia" -name 'chunk-*.fits' | sort | head -1)}
mkdir -p "$RELEASE/external"
skymill release match-external "$EXTERNAL" "$RELEASE" "$RELEASE/external/survey-$NAME-gaia.fits" \
    --copycols "source_id phot_g_mean_mag" --bricks bricks.txt

skymill release tar-logs "$RELEASE" --remove
skymill release gallery "$RELEASE" --title "Release $NAME"
skymill release check "$RELEASE" --bricks bricks.txt
skymill release checksums "$RELEASE" --name "$NAME"
skymill release checksums "$RELEASE" --verify
skymill release publish "$RELEASE" "$WORK/published"

# -- 8. Everything is there: the queues can go ---------------------------------------------------
skymill queue delete "$NAME" --force
skymill queue delete "zpts-$NAME" --force
echo "the release is in $WORK/published; its gallery: $WORK/published/gallery/index.html"
