# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of @PROGRAM@ for bash, by means of the package bash-completion.

# What the value of an option can be: words, "@file" and "@dir".
_@PROGRAM@_values() {
    case $1 in
@VALUES@    esac
}

# Adds what the value of option $1 can be, of which $2 is typed, behind $3 in the word.
_@PROGRAM@_add_values() {
    local value reply typed=$2 before=$3
    case $1 in
    @LISTS@)
        typed=${2##*,}
        before=$3${2%"$typed"}
        ;;
    esac
    for value in $(_@PROGRAM@_values "$1"); do
        case $value in
        @file | @dir)
            compopt -o filenames
            while IFS= read -r reply; do
                COMPREPLY+=("$before$reply")
            done < <(if [ "$value" = @dir ]; then compgen -d -- "$typed"; else compgen -f -- "$typed"; fi)
            ;;
        "$typed"*) COMPREPLY+=("$before$value") ;;
        esac
    done
}

# Adds what can come next in the list $1 of an option -o, behind $2 in the word.
_@PROGRAM@_add_elements() {
    local name element=${1##*,} before
    before=$2${1%"$element"}
    compopt -o nospace
    if [[ $element == *=* ]]; then
        _@PROGRAM@_add_values "${element%%=*}" "${element#*=}" "$before${element%%=*}="
        return
    fi
    for name in $elements; do
        [[ $name == "$element"* ]] && COMPREPLY+=("$before$name")
    done
}

_@PROGRAM@() {
    local cur prev words cword word letter command=@PROGRAM@ n_operands=0
    local subcommands='@SUBCOMMANDS@' options='' letters='' elements='' verbs='' value_of=''
    _get_comp_words_by_ref -n =: cur prev words cword
    COMPREPLY=()

    # The subcommand, and how many operands stand before the cursor.
    for word in "${words[@]:1:cword-1}"; do
        [[ $word == -* ]] && continue
        if [[ -n $subcommands && $command == @PROGRAM@ ]]; then
            command=$word
        else
            ((n_operands++))
        fi
    done
    case $command in
@CASES@    *) return ;;
    esac
    # "-r leaks": the option before takes what is typed.
    for letter in $letters; do
        [[ $prev == "${letter%%=*}" ]] && value_of=${letter#*=}
    done
    for word in $options; do
        [[ $word == *= && $prev == "${word%=}" ]] && value_of=${prev#--}
    done
    value_of=${value_of//-/_}

    if [[ $value_of == o || $value_of == options ]]; then
        _@PROGRAM@_add_elements "$cur" ''
    elif [[ -n $value_of ]]; then
        _@PROGRAM@_add_values "$value_of" "$cur" ''
    elif [[ $cur == --options=* ]]; then
        _@PROGRAM@_add_elements "${cur#*=}" '--options='
    elif [[ $cur == --*=* ]]; then
        word=${cur%%=*}
        word=${word#--}
        _@PROGRAM@_add_values "${word//-/_}" "${cur#*=}" "${cur%%=*}="
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    elif [[ -n $subcommands && $command == @PROGRAM@ ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$subcommands" -- "$cur")
    elif [[ -n $verbs && $n_operands == 0 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
    else
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi

    # Readline replaces only what stands behind the last of its word breaks.
    local breaks=${COMP_WORDBREAKS//[!=:]/} i
    if [[ -n $breaks && $cur == *["$breaks"]* ]]; then
        for i in "${!COMPREPLY[@]}"; do
            COMPREPLY[i]=${COMPREPLY[i]#"${cur%"${cur##*["$breaks"]}"}"}
        done
    fi
} && complete -F _@PROGRAM@ @PROGRAM@
