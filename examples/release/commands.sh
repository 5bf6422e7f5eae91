#!/usr/bin/env bash
# A small data release, from community-processed images to checked and published files.
#
#     bash commands.sh WORK_FOLDER                                  # a simulated patch, minutes
#     LEGACY_SURVEY_DIR=/my/survey bash commands.sh WORK_FOLDER     # your own images
#
# WORK_FOLDER gets everything that is made; run again, the script goes on where it stopped.
# A survey of your own is only read. If it has survey-ccds tables its zero points, PSFs and skies
# are taken; otherwise they are made (this needs its folders ps1/ and gaia/).
# Settings are at the top; each step is one or two commands that can be typed by hand.
set -euo pipefail

[ -z "${LEGACY_SURVEY_DIR:-}" ] || LEGACY_SURVEY_DIR=$(cd "$LEGACY_SURVEY_DIR" && pwd)
[ -z "${EXTERNAL:-}" ] || EXTERNAL=$(realpath "$EXTERNAL")
WORK=$(mkdir -p "${1:?usage: commands.sh WORK_FOLDER}" && cd "$1" && pwd)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORKERS=${WORKERS:-2}                  # tasks at the same time
THREADS=${THREADS:-1}                  # threads of one brick
NAME=${NAME:-example}                  # word of the release in names of files
SIZE=${SIZE:-tiny}                     # of the simulated patch: tiny or small
REGION=${REGION:---min-dec -90}        # of the bricks: --min-ra --max-ra --min-dec --max-dec
CUTS=${CUTS:-}                         # options of survey-ccds, such as --nmatch 5
BRICK=${BRICK:---ebv 0.0}              # options of the bricks, such as --dust-map or --covered
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=1
export SKYMILL_QUEUE_DB=${SKYMILL_QUEUE_DB:-$WORK/queues.sqlite3}

cd "$WORK"
mkdir -p scripts zpts release
RELEASE=$WORK/release

# -- 0. Images: your own survey folder, or a simulated one without any calibration --------------
if [ -z "${LEGACY_SURVEY_DIR:-}" ]; then
    "$PYTHON" "$HERE/make_patch.py" "$WORK/patch" --size "$SIZE" --processes "$WORKERS"
    OWN=$WORK/patch/survey
    ZOOMS=$WORK/patch/zooms.txt        # only this part of each brick has images
    REGION="--min-ra 150.0 --max-ra 150.5 --min-dec 1.9 --max-dec 2.4"
    CUTS=${CUTS:---nmatch 5}           # its small CCDs have fewer than 20 photometric stars
else
    OWN=$LEGACY_SURVEY_DIR
fi
# Tables and calibrations that are made go to a folder of links to everything else.
export LEGACY_SURVEY_DIR=$WORK/survey
mkdir -p "$LEGACY_SURVEY_DIR"
TABLES=()                              # CCDs that are calibrated
for part in "$OWN"/*; do
    case $(basename "$part") in
        survey-ccds*.fits | survey-ccds*.fits.gz) TABLES+=(--ccds "$part") ;;
        survey-ccds*) ;;               # checksums and the like
        calib) ;;
        *) ln -sfn "$part" "$LEGACY_SURVEY_DIR/" ;;
    esac
done

# -- 1. Image list: one line an image, doubles and dates sorted out -----------------------------
skymill release images "$LEGACY_SURVEY_DIR/images" > images.txt

if [ ${#TABLES[@]} -eq 0 ]; then
    # -- 2. Zero points, with the PSF and sky of each CCD; one task an image --------------------
    cat > scripts/zeropoints.sh <<'SCRIPT'
#!/usr/bin/env bash
set -euo pipefail
skymill release zeropoints --image "$1" --outdir "$ZPTS" --psf --splinesky --run-calibs
SCRIPT
    chmod +x scripts/zeropoints.sh
    export ZPTS=$WORK/zpts
    skymill queue load "zpts-$NAME" images.txt
    skymill queue recover "zpts-$NAME"     # after a killed run; does nothing the first time
    skymill queue retry "zpts-$NAME"       # after a failure
    skymill queue launch "zpts-$NAME" "$WORKERS" --cores-per-worker 1 --walltime 04:00:00 \
        --script "$WORK/scripts/zeropoints.sh"
    skymill queue list

    # -- 3. One table of CCDs, one file of calibrations an exposure -----------------------------
    find zpts -name '*-legacypipe.fits' | sort > done_zpt.txt
    find zpts -name '*-annotated.fits' | sort > done_annotated.txt
    skymill release merge-zeropoints --file-list done_zpt.txt --cut-expnum --outname merged_zpt.fits
    skymill release merge-zeropoints --file-list done_annotated.txt --cut-expnum \
        --outname "ccds-annotated-$NAME.fits"
    # shellcheck disable=SC2086
    skymill release survey-ccds --ccds merged_zpt.fits $CUTS --outname "ccds-$NAME.fits"
    skymill release merge-calibs --ccds "ccds-$NAME.fits" --continue
else
    # What is calibrated is taken as it is.
    [ -L "$LEGACY_SURVEY_DIR/calib" ] || [ ! -e "$LEGACY_SURVEY_DIR/calib" ] || {
        echo "$WORK holds calibrations of an earlier run: take a new WORK_FOLDER" >&2; exit 1; }
    ln -sfn "$OWN/calib" "$LEGACY_SURVEY_DIR/"
    skymill release survey-ccds "${TABLES[@]}" --no-cuts --outname "ccds-$NAME.fits"
    skymill release annotate --ccds "ccds-$NAME.fits" --outname "ccds-annotated-$NAME.fits"
fi
rm -f "$LEGACY_SURVEY_DIR"/survey-ccds-*
cp "ccds-$NAME.fits" "$LEGACY_SURVEY_DIR/survey-ccds-$NAME.fits"

# -- 4. Bricks that have images -----------------------------------------------------------------
# shellcheck disable=SC2086
skymill release bricks --touching $REGION > bricks.txt
if [ -n "${ZOOMS:-}" ]; then           # of the simulated patch: those that it covers
    grep -wf <(cut -d' ' -f1 "$ZOOMS") bricks.txt > covered.txt && mv covered.txt bricks.txt
fi

# -- 5. Depth cut: leave out images that no brick needs; then the final table with its tree -----
skymill release depth-cut --brick-list bricks.txt --outdir depthcut --skip
skymill release depth-cut --outdir depthcut --collect depthcut.fits
rm -f "$LEGACY_SURVEY_DIR"/survey-ccds-*
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
# shellcheck disable=SC2086
skymill release brick "$brick" --outdir "$RELEASE" --skip --skip-calibs --threads "$THREADS" \
    $BRICK "${zoom[@]}" >> "$RELEASE/logs/$bri/$brick.log" 2>&1
SCRIPT
chmod +x scripts/brick.sh
export RELEASE THREADS BRICK ZOOMS=${ZOOMS:-}
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

# An external catalogue row by row; here Gaia stars of the survey folder itself.
STARS=("$LEGACY_SURVEY_DIR"/gaia/chunk-*.fits)
EXTERNAL=${EXTERNAL:-${STARS[0]}}
if [ -f "$EXTERNAL" ]; then
    skymill release match-external "$EXTERNAL" "$RELEASE" \
        "$RELEASE/external/survey-$NAME-$(basename "$EXTERNAL" .fits).fits" --bricks bricks.txt
fi

skymill release tar-logs "$RELEASE" --remove
skymill release gallery "$RELEASE" --title "Release $NAME"
skymill release check "$RELEASE" --bricks bricks.txt
skymill release checksums "$RELEASE" --name "$NAME"
skymill release checksums "$RELEASE" --verify
skymill release publish "$RELEASE" "$WORK/published"

# -- 8. Everything is there: the queues can go ---------------------------------------------------
skymill queue delete "$NAME" --force
[ ${#TABLES[@]} -gt 0 ] || skymill queue delete "zpts-$NAME" --force
echo "the release is in $WORK/published; its gallery: $WORK/published/gallery/index.html"
