package commands

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// completeFlag is the flag with which a shell asks for the words that can follow.
const completeFlag = "--generate-bash-completion"

// completing reports whether a shell asks for completions.
func completing(args []string) bool {
	return len(args) > 0 && args[len(args)-1] == completeFlag
}

// complete returns the function that prints the words that can follow args: flags if the word that the
// shell completes begins as one, else commands. The one of the library reads os.Args.
func complete(args []string) cli.BashCompleteFunc {
	word := args[max(len(args)-2, 0)]
	return func(c *cli.Context) {
		if strings.HasPrefix(word, "-") {
			for _, flag := range c.Command.VisibleFlags() {
				fmt.Fprintln(c.App.Writer, "--"+flag.Names()[0])
			}
			return
		}
		for _, name := range commandNames(c.Command.Subcommands) {
			fmt.Fprintln(c.App.Writer, name)
		}
	}
}

// bashCompletion asks imgo itself for the words. zsh understands it with its module bashcompinit.
const bashCompletion = `_imgo() {
  local word="${COMP_WORDS[COMP_CWORD]}" words
  if [[ "$word" == -* ]]; then
    words="$("${COMP_WORDS[@]:0:COMP_CWORD}" "$word" --generate-bash-completion 2>/dev/null)"
  else
    words="$("${COMP_WORDS[@]:0:COMP_CWORD}" --generate-bash-completion 2>/dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o bashdefault -o default -F _imgo imgo
`

const zshCompletion = "autoload -U +X bashcompinit && bashcompinit\n" + bashCompletion

const fishCompletion = `function __imgo_words
  set -l words (commandline -opc)
  set -l word (commandline -ct)
  string match -q -- '-*' $word; and set -a words $word
  $words --generate-bash-completion 2>/dev/null
end
complete -c imgo -f -a '(__imgo_words)'
`

var completions = map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands and flags in a shell",
		ArgsUsage: "bash|zsh|fish",
		Description: "source <(imgo completion bash)                              in ~/.bashrc\n" +
			"source <(imgo completion zsh)                               in ~/.zshrc\n" +
			"imgo completion fish > ~/.config/fish/completions/imgo.fish",
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usage(c, "for which shell? Write bash, zsh or fish")
			}
			script, ok := completions[c.Args().First()]
			if !ok {
				return usage(c, "there is no script for %q: write bash, zsh or fish", c.Args().First())
			}
			return printLine(c, strings.TrimSpace(script))
		},
	}
}
